"""The action expert: strides, states, and a start from the video's weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from wamkit_mot import Mot
from wamkit_mot.interpolate import resized

from wamkit.errors import WamkitError
from wamkit.registry import registry
from wamkit.trial import compose
from wamkit.types import Frames, Noisy, Scene, Text

SEES = {
    "context": {"context"},
    "target": {"context", "target"},
    "state": {"state"},
    "action": {"context", "state", "action"},
}


def parts(backbone: str = "wan", **settings: Any) -> tuple[Any, Any, Scene]:
    """A tiny backbone, a head with `settings`, and a scene for both."""
    torch.manual_seed(0)
    spec = compose(registry().parts["backbone"][backbone]())  # type: ignore[call-arg]
    model = spec.backbone.build()
    head = Mot(**({"width": 32, "feed_forward": 48} | settings)).build(spec.sizes)
    traits = spec.backbone.traits
    z = torch.randn(2, traits.latent_channels, 2, *spec.latent_size)
    video = Frames(z, ("context", "target"), torch.arange(2.0), torch.tensor([[0.0, 0.5]] * 2))
    text = Text(torch.randn(2, 4, traits.text_width))
    action = Noisy(torch.randn(2, 6, 4), torch.tensor([0.2, 0.7]))
    return model, head, Scene(text, video, action, torch.randn(2, 3))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_an_expert_may_rest_at_some_layers(every: int) -> None:
    model, head, scene = parts(every=every)
    depth = head.sizes.traits.depth
    awake = [i for i, block in enumerate(head.blocks) if block is not None]
    assert awake == list(range(0, depth, every)) and len(head.expert) == len(awake)
    assert head.join(model, scene, SEES).action.shape == (2, 6, 4)


@pytest.mark.parametrize(("state", "tokens"), [("text", 6), ("token", 7), ("none", 6)])
def test_the_state_enters_where_it_is_told_to(state: str, tokens: int) -> None:
    model, head, scene = parts(state=state)
    assert sum(Mot(state=state).tokens(head.sizes).values()) == tokens
    with torch.no_grad():
        one = head.join(model, scene, SEES)
        assert scene.state is not None
        two = head.join(model, scene.with_(state=scene.state + 1), SEES)
    assert torch.equal(one.action, two.action) == (state == "none")
    # As a word the state is read by the video too; as a token only the action sees it.
    assert torch.equal(one.video, two.video) == (state != "text")


def test_without_text_the_expert_does_not_read_the_instruction() -> None:
    _, head, _ = parts(text="none")
    assert not any("attn2" in name or "text" in name for name in head.state_dict())


def test_the_noise_level_of_the_action_is_its_own() -> None:
    model, head, scene = parts()
    assert scene.action is not None
    with torch.no_grad():
        one = head.join(model, scene, SEES)
        other = Noisy(scene.action.x, scene.action.sigma + 0.1)
        two = head.join(model, scene.with_(action=other), SEES)
    assert not torch.equal(one.action, two.action) and torch.equal(one.video, two.video)


def test_resizing_interpolates_every_axis_and_keeps_the_size_of_outputs() -> None:
    ramp = torch.arange(9.0).expand(4, 9)
    assert torch.equal(resized(ramp[0], (5,), (9, 5)), torch.tensor([0.0, 2, 4, 6, 8]))
    narrow = resized(ramp, (4, 3), (9, 3))
    torch.testing.assert_close(narrow, torch.tensor([0.0, 4, 8]).expand(4, 3) * 3**0.5)
    assert torch.equal(resized(ramp, (4, 9), (9, 9)), ramp)


def test_resizing_does_not_mix_the_pieces_of_a_stacked_table() -> None:
    pieces = torch.cat([torch.full((6,), float(i)) for i in range(6)])
    assert torch.equal(
        resized(pieces, (18,), (6, 3)),
        torch.cat([torch.full((3,), float(i)) for i in range(6)]),
    )


@pytest.mark.parametrize("every", [1, 2])
def test_an_expert_can_start_from_the_video(every: int) -> None:
    model, head, scene = parts(init="video", every=every)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    before = {name: p.clone() for name, p in head.named_parameters()}
    head.initialize_from(model)
    same = {n for n, p in head.named_parameters() if torch.equal(p, before[n])}
    own = ("action_encoder", "action_decoder", "state_encoder")
    assert same and all(name.startswith(own) for name in same)
    source = model.blocks[every].attn1.to_q.weight
    goal = head.expert[1].attn1.to_q.weight
    torch.testing.assert_close(
        goal, resized(source, tuple(goal.shape), (source.shape[1], goal.shape[1]))
    )
    assert head.join(model, scene, SEES).action.isfinite().all()


def test_a_backbone_with_other_names_is_refused() -> None:
    _, head, _ = parts(init="video")

    class Stranger(nn.Module):
        traits = head.sizes.traits
        blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(head.sizes.traits.depth))

    with pytest.raises(WamkitError, match="cannot start from this backbone"):
        head.initialize_from(Stranger())
