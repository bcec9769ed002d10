"""A step multiplies no matrix but by what is denoised, and makes no tensor of Python's numbers.

What follows from images, words and places alone is made once for a chunk, and what follows from
noise levels once for all levels of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wamkit.bench.hooks import hook_method
from wamkit.config.compositions import Cell, matrix
from wamkit.interfaces.action_head import is_prefill
from wamkit.interfaces.types import MODALITIES, ModelInputs
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import observation

# Every head and every paradigm once, and every backbone where frames and numbers of several levels
# pass through its blocks in each step.
HEADS = ("shared_stream", "latent_slot")
COLUMNS = [
    c
    for c in matrix()
    if c.runs
    and (
        (c.backbone, c.action_head) == ("toy", "mot")
        or (c.backbone, c.paradigm) == ("toy", "single_pass")
        or (c.paradigm == "joint" and c.action_head in HEADS)
    )
]
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "convolution", "linear", "matmul")
HOST = ("arange", "linspace", "eye", "lift_fresh", "_local_scalar_dense")


class Work(TorchDispatchMode):
    """The operations that run inside it, and which of them read something that is denoised.

    What is made of a denoised tensor is denoised too; memory is known by its storage.
    """

    def __init__(self) -> None:
        super().__init__()
        self.denoised: dict[int, Tensor] = {}  # of each storage a tensor, so that it stays theirs
        self.found: list[str] | None = None

    def mark(self, *tensors: Tensor) -> None:
        """These are denoised."""
        for tensor in tensors:
            self.denoised[tensor.untyped_storage()._cdata] = tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        denoised = any(x.untyped_storage()._cdata in self.denoised for x in given)
        if denoised:
            self.mark(*(x for x in tree_leaves(out) if isinstance(x, Tensor)))
        name = func._overloadpacket.__name__
        if self.found is not None and (name in HOST or (name in PRODUCTS and not denoised)):
            shapes = ", ".join(str(list(x.shape)) for x in given)
            self.found.append(f"{name}({shapes})")
        return out


def constant_work(policy: Policy) -> tuple[int, set[str]]:
    """How many later steps a chunk has, and what they do that is the same in all of them."""
    work, steps = Work(), 0
    met: set[tuple[str, int]] = set()
    caches: list[Any] = []  # kept, so that no run after it has a cache of the same number
    found: set[str] = set()

    def around(
        model: Callable[..., Any], inputs: ModelInputs, cache: Any = None, keep: Any = ()
    ) -> Any:
        nonlocal steps
        kind = ",".join(sorted(inputs.roles)), id(cache)
        if is_prefill(inputs, keep):
            return model(inputs, cache=cache, keep=keep)
        work.mark(*(getattr(inputs, p).x for p in MODALITIES[1:] if getattr(inputs, p) is not None))
        work.mark(*(f.z for f in (inputs.video, inputs.future) if f is not None and f.targets))
        work.found = [] if kind in met else None
        steps += kind in met
        met.add(kind)
        caches.append(cache)
        try:
            return model(inputs, cache=cache, keep=keep)
        finally:
            found.update(work.found or ())
            work.found = None

    with torch.no_grad(), hook_method(policy, "model", around), work:
        policy.act(observation(policy.spec, batch=1, frames=policy.spec.video.num_observed), seed=0)
    return steps, found


def _name(cell: Cell) -> str:
    return f"{cell.backbone}-{cell.action_head}-{cell.paradigm}"


@pytest.mark.parametrize("cell", COLUMNS, ids=_name)
def test_a_later_step_works_on_what_is_denoised(cell: Cell) -> None:
    steps, found = constant_work(Policy.from_spec(cell.spec))
    assert steps or cell.action_head in ("regression", "state_fusion")
    assert not found, "the same in every step: " + "; ".join(sorted(found))
