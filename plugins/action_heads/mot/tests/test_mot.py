"""The action expert: strides, states, and a start from the video's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from wamkit_mot import Mot
from wamkit_mot.interpolate import Units, interpolate_tensor

from wamkit.config.registry import registry
from wamkit.errors import WamkitError
from wamkit.interfaces.types import ModelInputs, NoisyVectors
from wamkit.testing.fixtures import random_frames, run_head, spec_with
from wamkit.testing.parity import float64, same_values

BACKBONES = [
    name
    for name, cls in registry().parts["backbone"].items()
    if cls().traits.experts  # type: ignore[call-arg, attr-defined]
]
SEES = {
    "text": {"text"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
    "state": {"state"},
    "action": {"text", "context", "state", "action"},
}


def parts(backbone: str = "wan", **settings: Any) -> tuple[Any, Any, ModelInputs]:
    """A tiny backbone, a head with `settings`, and inputs for both."""
    torch.manual_seed(0)
    spec = spec_with(backbone=backbone)
    model = spec.backbone.build()
    sizes = spec.sizes.model_copy(update={"predicts": ("action",)})
    head = Mot(**({"width": 32, "mlp_dim": 48} | settings)).build(sizes)
    video, text = random_frames(spec.backbone.traits, spec.latent_size, frames=2)
    action = NoisyVectors(torch.randn(2, 6, 4), torch.tensor([0.2, 0.7]))
    return model, head, ModelInputs(text, video, action, torch.randn(2, 3))


@pytest.mark.parametrize(
    ("settings", "layers"),
    [
        ({}, [0, 1, 2]),
        ({"layer_stride": 2}, [0, 2]),
        ({"layer_stride": 3}, [0]),
        ({"layers": (1, 2)}, [1, 2]),
        ({"layers": (1, 2), "block": "backbone"}, [1, 2]),
    ],
)
def test_an_expert_may_rest_at_some_layers(settings: dict[str, Any], layers: list[int]) -> None:
    model, head, inputs = parts(**settings)
    assert [i for i, block in enumerate(head.blocks) if block is not None] == layers
    assert run_head(head, model, inputs, SEES).action.shape == (2, 6, 4)


@pytest.mark.parametrize("block", ["own", "backbone"])
@pytest.mark.parametrize(
    ("state", "tokens"), [("text", 6), ("token", 7), ("noisy_token", 7), ("none", 6)]
)
def test_the_state_enters_where_it_is_configured(block: str, state: str, tokens: int) -> None:
    model, head, inputs = parts(block=block, state=state)
    assert sum(head.config.tokens(head.sizes).values()) == tokens
    with torch.no_grad():
        one = run_head(head, model, inputs, SEES)
        assert inputs.state is not None
        two = run_head(head, model, inputs.with_(state=inputs.state + 1), SEES)
    assert torch.equal(one.action, two.action) == (state == "none")
    # As a text token the state is read by the video too; as a token only the action sees it.
    assert torch.equal(one.video, two.video) == (state != "text")


def test_without_text_the_expert_does_not_read_the_prompt() -> None:
    _, head, _ = parts(text="none")
    assert not any("attn2" in name or "text" in name for name in head.state_dict())


@pytest.mark.parametrize("block", ["own", "backbone"])
def test_the_noise_level_of_the_action_is_its_own(block: str) -> None:
    model, head, inputs = parts(block=block)
    assert inputs.action is not None
    with torch.no_grad():
        one = run_head(head, model, inputs, SEES)
        other = NoisyVectors(inputs.action.x, inputs.action.sigma + 0.1)
        two = run_head(head, model, inputs.with_(action=other), SEES)
    assert not torch.equal(one.action, two.action) and torch.equal(one.video, two.video)


def units(width: tuple[int, int]) -> Units:
    return Units(width, (12, 12), (30, 20))


@float64()
def test_resizing_interpolates_every_axis_and_keeps_the_size_of_outputs() -> None:
    ramp = torch.arange(9.0).expand(4, 9)
    assert torch.equal(
        interpolate_tensor(ramp[0], (5,), units((9, 5))), torch.tensor([0.0, 2, 4, 6, 8])
    )
    narrow = interpolate_tensor(ramp, (4, 3), units((9, 3)))
    same_values(narrow, torch.tensor([0.0, 4, 8]).expand(4, 3) * 3**0.5)
    assert torch.equal(interpolate_tensor(ramp, (4, 9), units((9, 9))), ramp)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ([6] * 6, [3] * 6),  # shifts, scales and gates
        ([12] * 3 + [30] * 2, [12] * 3 + [20] * 2),  # q, k, v and both halves of a feed-forward
        ([12, 30], [12, 20]),  # heads and feed-forward on their way out
        ([30] * 2, [20] * 2),
    ],
)
def test_resizing_does_not_mix_the_pieces_of_a_stack(old: list[int], new: list[int]) -> None:
    source, goal = (
        torch.cat([torch.full((n,), float(i)) for i, n in enumerate(sizes)]) for sizes in (old, new)
    )
    assert torch.equal(interpolate_tensor(source, goal.shape, units((6, 3))), goal)


@pytest.mark.parametrize(
    "settings", [{}, {"layer_stride": 2}, {"block": "backbone", "layer_stride": 2}]
)
@float64()
def test_an_expert_can_start_from_the_video(settings: dict[str, Any]) -> None:
    model, head, inputs = parts(init="from_backbone", **settings)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    before = {name: p.clone() for name, p in head.named_parameters()}
    head.initialize_from(model)
    same = {n for n, p in head.named_parameters() if torch.equal(p, before[n])}
    own = ("action_encoder", "action_decoder", "state_encoder")
    assert same and all(name.startswith(own) for name in same)
    source = model.blocks[head.layers[1]].attn1.to_q.weight
    goal = head.blocks[head.layers[1]].attn1.to_q.weight
    same_values(
        goal, interpolate_tensor(source, goal.shape, units((source.shape[1], goal.shape[1])))
    )
    assert run_head(head, model, inputs, SEES).action.isfinite().all()


@pytest.mark.parametrize("backbone", [name for name in BACKBONES if name != "wan"])
def test_a_copy_of_any_backbones_blocks_can_start_from_it(backbone: str) -> None:
    model, head, inputs = parts(backbone, init="from_backbone", block="backbone")
    before = {name: p.clone() for name, p in head.expert.named_parameters()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    head.initialize_from(model)
    assert not [n for n, p in head.expert.named_parameters() if torch.equal(p, before[n])]
    assert run_head(head, model, inputs, SEES).action.isfinite().all()


def test_a_backbone_with_other_names_is_refused() -> None:
    _, head, _ = parts(init="from_backbone")

    class Stranger(nn.Module):
        traits = head.sizes.traits
        blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(head.sizes.traits.depth))

    with pytest.raises(WamkitError, match="cannot start from this backbone"):
        head.initialize_from(Stranger())
