"""In which dtype products run: bfloat16 where asked for, float32 where a reference keeps it."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import wamkit
from wamkit.acceleration.precision import ExactLinear
from wamkit.config.registry import registry
from wamkit.policy.cost import FORMULAS
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with

BACKBONES = registry().names("backbone")


class Products(TorchDispatchMode):
    """The dtypes of every matrix product and attention inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if getattr(func, "_overloadpacket", None) in FORMULAS:
            self.dtypes |= {x.dtype for x in args if isinstance(x, Tensor)}
        return func(*args, **(kwargs or {}))


def built(name: str, dtype: str) -> Policy:
    """A tiny policy around a backbone."""
    spec = spec_with(backbone=name)
    return wamkit.build(spec.model_copy(update={"dtype": dtype}))


@contextmanager
def watched(policy: Policy) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Inputs and outputs of the layers that are kept in float32, while this lasts."""
    seen: list[tuple[Tensor, Tensor]] = []
    handles = [
        layer.register_forward_hook(lambda m, args, out: seen.append((args[0].detach(), out)))
        for layer in policy.modules()
        if isinstance(layer, ExactLinear)
    ]
    yield seen
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("name", BACKBONES)
def test_in_bfloat16_every_product_but_those_that_are_kept_is_one_of_bfloat16(name: str) -> None:
    policy = built(name, "bfloat16")
    inputs = inference_inputs(
        policy, observation(policy.spec, batch=1, frames=policy.spec.video.num_observed)
    )
    for layer in policy.modules():
        if isinstance(layer, ExactLinear):
            assert layer.weight.dtype == torch.float32
            layer.forward = _apart(layer)  # type: ignore[method-assign]
    with Products() as products:
        policy.sample(inputs, seed=0)
    assert products.dtypes == {torch.bfloat16}


def _apart(layer: ExactLinear) -> Any:
    """The layer's forward, as one sum that no counter takes for a matrix product."""

    def forward(x: Tensor) -> Tensor:
        assert x.dtype == torch.float32
        y = (x[..., None, :] * layer.weight).sum(-1)
        return y if layer.bias is None else y + layer.bias

    return forward


@pytest.mark.parametrize("name", BACKBONES)
def test_training_in_bfloat16_leaves_alone_what_is_kept_in_float32(name: str) -> None:
    policy = built(name, "float32")
    with watched(policy) as seen:
        losses = policy.loss(batch_of(policy.spec, size=1), seed=0, compute=torch.bfloat16)
    assert losses.total.isfinite()
    assert {y.dtype for _, y in seen} <= {torch.float32}
    kept = getattr(policy.backbone, "keep_float32", ())
    names = [n for n, m in policy.backbone.named_modules() if isinstance(m, ExactLinear)]  # type: ignore[attr-defined]
    assert bool(names) == any("time" in pattern for pattern in kept)


def test_a_noise_level_is_embedded_the_same_whatever_training_computes_in() -> None:
    policy = built("wan", "float32")
    batch = batch_of(policy.spec, size=1)
    noisy, _ = policy.paradigm.add_noise(
        training_inputs(policy, batch), policy.schedules, torch.Generator().manual_seed(0)
    )
    found = []
    for lowered in (False, True):
        with watched(policy) as seen, torch.autocast("cpu", torch.bfloat16, enabled=lowered):
            policy.model(noisy)
        found.append([y.detach() for _, y in seen])
    assert found[0] and all(map(torch.equal, *found))


def test_a_layer_that_is_kept_can_be_copied_and_sent() -> None:
    policy = built("wan", "float32")
    layer = next(m for m in policy.modules() if isinstance(m, ExactLinear))
    x = torch.randn(1, layer.in_features)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))
