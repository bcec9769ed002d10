"""What a chunk costs is counted once for each kind of pass, as if all had been run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from wamkit.config.spec import PolicySpec, parse, read
from wamkit.policy import meta_ops
from wamkit.policy.cost import Counter, cost

EXAMPLES = Path(__file__).parent.parent / "examples"
GUIDED = ("schedules.action.guidance_scale=3.0", "schedules.video.guidance_scale=2.0")
COMPOSED = [
    ("fastwam", ()),
    ("fastwam", GUIDED),
    ("fastwam", ("schedules.action.solver=heun", "schedules.action.steps=8")),
    ("fastwam", ("schedules.action.steps=150",)),
    ("fastwam_joint", GUIDED),
    ("efficient_wam", ()),
    ("efficient_wam", ("schedules.action.steps=9", "paradigm.refresh=[0,2,3,7]")),
    ("fastwam_idm", ()),
    ("mimic_video", ()),
    ("ge_act", GUIDED),
    ("light_wam", ()),
    ("lingbot_va", ()),
    ("dreamzero_5b", ()),
    ("cosmos_policy", ()),
    ("cosmos_policy_planning", ()),
    ("adaptive_wam", GUIDED),
    ("image_wam_4b", ()),
]


def _tiny(name: str, overrides: tuple[str, ...]) -> PolicySpec:
    return parse(read(EXAMPLES / f"{name}.toml", overrides)).tiny()[0]


@pytest.fixture
def plainly(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No result of an operation is taken from one before."""
    monkeypatch.setattr(meta_ops, "key_of", lambda *_: None)
    return monkeypatch


@pytest.mark.parametrize(("name", "overrides"), COMPOSED)
def test_passes_that_repeat_are_counted_as_if_they_were_run(
    name: str, overrides: tuple[str, ...]
) -> None:
    spec = _tiny(name, overrides)
    for act_options in spec.paradigm.variants.values():
        assert cost(spec, **act_options) == cost(spec, every_pass=True, **act_options)


@pytest.mark.parametrize("name", ["fastwam", "mimic_video", "cosmos_policy", "image_wam_4b"])
def test_operations_that_are_remembered_cost_what_they_did(
    name: str, plainly: pytest.MonkeyPatch
) -> None:
    spec = _tiny(name, GUIDED)
    exact = cost(spec, every_pass=True)
    plainly.undo()
    assert cost(spec) == exact


def test_guidance_is_in_the_count() -> None:
    plain, guided = cost(_tiny("fastwam", ())), cost(_tiny("fastwam", GUIDED))
    assert guided.passes == plain.passes
    assert guided.stages["act"] > 1.8 * plain.stages["act"]


def test_a_remembered_operation_makes_a_tensor_of_its_own_in_the_same_form() -> None:
    x = torch.zeros(4, 6, device="meta").t()
    with Counter():
        one, two = x * 2, x * 2
        row, view = x @ x.t(), x.view(6, 4)
    assert one.stride() == two.stride() == (x * 2).stride()
    assert one.untyped_storage()._cdata != two.untyped_storage()._cdata
    assert row.shape == (6, 6) and view.untyped_storage()._cdata == x.untyped_storage()._cdata


def test_what_is_not_on_the_meta_device_is_computed() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    with Counter() as counter:
        one, two = x @ x.t(), (x + 1) @ x.t()
    assert counter.operations == 2 * 2 * 2 * 2 * 3
    assert torch.equal(one, x @ x.t()) and torch.equal(two, (x + 1) @ x.t())


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_transformer_block_counts_as_its_closed_formula(device: str) -> None:
    tokens, width, hidden = 24, 16, 40
    block = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True).to(device)
    image = torch.zeros(1, 3, 8, 8, device=device)
    with Counter() as counter:
        block(torch.zeros(1, tokens, width, device=device))
        nn.functional.conv2d(image, torch.zeros(5, 3, 2, 2, device=device), stride=2)
    projections = tokens * 2 * (4 * width**2 + 2 * width * hidden)
    attention = 2 * tokens**2 * 2 * width
    convolution = 2 * 5 * 3 * 2 * 2 * 4 * 4
    assert counter.operations == projections + attention + convolution
