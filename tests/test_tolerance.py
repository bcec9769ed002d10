"""What `wamkit.testing.tolerance` lets pass and what not, and what it computes in."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from wamkit.config.parts import Part
from wamkit.config.registry import registry
from wamkit.engine.layers import constant, sinusoid
from wamkit.interfaces.types import Frames, Text
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import (
    batch_of,
    compose,
    default,
    predict_frames,
    random_frames,
    randomize_weights,
    run_paradigm,
    spec_with,
)
from wamkit.testing.parity import float64, other_values, same_gradients, same_values, to_float64


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e8])
@pytest.mark.parametrize(("dtype", "least"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_errors_are_measured_at_the_scale_of_what_is_expected(
    scale: float, dtype: torch.dtype, least: float
) -> None:
    expected = scale * torch.linspace(-1, 1, 7, dtype=dtype)
    near, far = (expected + scale * times * least for times in (0.9, 1.1))
    same_values(near, expected)
    with pytest.raises(AssertionError, match=rf"\[\d\] of \[7\]: found .*allowed {least:.0e}"):
        same_values(far, expected)
    same_values(far, expected, 2 * least)


def test_the_place_the_values_and_the_scale_are_reported() -> None:
    expected = torch.tensor([[0.5, -4.0], [1.0, 2.0]])
    found = expected.clone()
    found[1, 0] = 1.5
    with pytest.raises(AssertionError) as error:
        same_values({"a": expected, "b": [found]}, {"a": expected, "b": [expected]})
    assert str(error.value) == (
        "['b'][0] at [1, 0] of [2, 2]: found 1.5, expected 1; they differ by 1.25e-01 of the "
        "scale 4, allowed 1e-04 (float32)"
    )


@pytest.mark.parametrize(
    ("found", "expected", "message"),
    [
        (torch.zeros(2), torch.zeros(3), r"shape \[2\], expected \[3\]"),
        (torch.zeros(2).double(), torch.zeros(2), "torch.float64, expected torch.float32"),
        (torch.tensor([1.0, torch.nan]), torch.ones(2), "found nan"),
        (torch.ones(2), torch.tensor([1.0, torch.nan]), "expected nan"),
        (torch.tensor([1.0, torch.inf]), torch.ones(2), "found inf"),
        (torch.tensor([1e-9]), torch.zeros(1), "by 1.00e-09 at the scale 0"),
        (torch.tensor([3]), torch.tensor([4]), "found 3, expected 4"),
        ({"a": 1.0}, {"b": 1.0}, "names"),
        ([torch.ones(1)], [torch.ones(1), torch.ones(1)], "1 of 2"),
        (np.ones(2), np.array([1, 1 + 1e-8]), "float64"),
        ([0.1, 0.2], [0.1, 0.3], "found 0.2, expected 0.3"),
        ({}, {}, "nothing to compare"),
    ],
)
def test_what_is_not_the_same_is_refused(found: object, expected: object, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        same_values(found, expected)


def test_what_is_the_same_passes() -> None:
    same_values(torch.tensor([torch.inf, 1.0]), torch.tensor([torch.inf, 1.0]))
    same_values(torch.tensor([0.1, 0.2]), [0.1, 0.2])
    same_values((torch.ones(2), {"x": np.ones(3)}), (torch.ones(2), {"x": np.ones(3)}))
    small = torch.tensor([1e-3])
    same_values(small + 1e-5, small, scale=1.0)


def test_other_values_differ_by_a_share_of_the_scale() -> None:
    one = torch.tensor([100.0, 1.0])
    other_values(one + torch.tensor([0.0, 0.2]), one)
    with pytest.raises(AssertionError, match=r"differs by 5.0e-04 of the largest number"):
        other_values(one + torch.tensor([0.0, 0.05]), one)


def test_gradients_that_cancel_are_measured_at_the_scale_of_the_others() -> None:
    wanted = {"a": torch.tensor([1.0]), "b": torch.tensor([1e-6])}
    same_gradients(wanted | {"b": torch.tensor([1.05e-6])}, wanted)
    with pytest.raises(AssertionError, match=r"\['b'\] at \[0\]"):
        same_gradients(wanted | {"b": torch.tensor([1.2e-6])}, wanted)
    with pytest.raises(AssertionError):
        same_gradients({"a": torch.tensor([1.0]), "b": torch.tensor([0.0])}, wanted)


def test_within_float64_nothing_is_computed_in_float32() -> None:
    devices = torch.device("cpu")
    assert constant((0.1,), torch.float32, devices).dtype == torch.float32
    with float64():
        t = torch.rand(3)
        assert t.dtype == t.float().dtype == t.to(torch.float32).dtype == torch.float64
        assert torch.arange(3, dtype=torch.float32).dtype == torch.float64
        assert constant((0.1,), torch.float32, devices).dtype == torch.float64
        exact = (1000 * t[:, None] * 10_000 ** (-torch.arange(4) / 4)).cos()
        same_values(sinusoid(1000 * t, 8)[:, :4], exact, 1e-12)
        assert float(constant((0.1,), torch.float32, devices)) == 0.1
    assert constant((0.1,), torch.float32, devices).dtype == torch.float32
    assert torch.rand(1).float().dtype == torch.get_default_dtype() == torch.float32
    with pytest.raises(ZeroDivisionError), float64():
        _ = 1 / 0
    assert torch.get_default_dtype() == torch.float32


def test_doubled_copies_modules_tensors_and_what_holds_them() -> None:
    layer = nn.Linear(2, 2)
    frames = Frames(torch.zeros(1, 1, 1, 2, 2), ("target",), torch.zeros(1), torch.zeros(1, 1))
    text = Text(torch.zeros(1, 2, 3), torch.ones(1, 2, dtype=torch.bool))
    again, (video, prompt), named = to_float64((layer, (frames, text), {"x": torch.zeros(1)}))
    assert again.weight.dtype == torch.float64 and layer.weight.dtype == torch.float32
    assert video.z.dtype == video.sigma.dtype == prompt.tokens.dtype == named["x"].dtype
    assert video.z.dtype == torch.float64 and prompt.valid.dtype == torch.bool
    assert to_float64(torch.arange(2)).dtype == torch.int64


class Narrow(TorchFunctionMode):
    """Collects the functions that return float32."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dtype == torch.float32:
            self.found.add(getattr(func, "__name__", str(func)))
        return out


BACKBONES = [default(cls) for cls in registry() if cls.kind == "backbone"]


@pytest.mark.parametrize("part", BACKBONES, ids=lambda part: part.name)
def test_every_backbone_computes_all_of_it_in_float64(part: Part) -> None:
    spec = compose(part)
    model = randomize_weights(spec.backbone.build()).eval()
    wide, video, text = to_float64((model, *random_frames(spec.backbone.traits, spec.latent_size)))
    with Narrow() as narrow, float64(), torch.no_grad():
        assert predict_frames(wide, video, text).dtype == torch.float64
    assert not narrow.found


@float64()
def test_a_policy_built_in_float64_acts_and_learns_in_it() -> None:
    policy = Policy.from_spec(spec_with())
    with Narrow() as narrow, float64():
        out, loss = run_paradigm(policy), policy.loss(batch_of(policy.spec), seed=0)
    assert out.action is not None and out.action.dtype == loss.total.dtype == torch.float64
    assert not narrow.found
