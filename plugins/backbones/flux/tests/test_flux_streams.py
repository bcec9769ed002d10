"""Tokens that belong to no frame pass FLUX's blocks, or a narrower copy, beside the stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_flux import Flux1, Flux2

from wamkit import WamkitError
from wamkit.attention import Stream, run
from wamkit.interfaces.backbone import stream_of
from wamkit.types import Frames, Segment, Text
from wamkit.visibility import everyone

CONFIGS: dict[str, Any] = {
    "klein": Flux2(variant="tiny", latent_channels=16),
    "guided": Flux2(variant="tiny", latent_channels=16, guidance=3.5),
    "kontext": Flux1(variant="tiny", extra_width=20),
}
cases = pytest.mark.parametrize("case", CONFIGS)
B, H, W, L = 2, 4, 6, 7  # batch, latent height and width, words


def scene(case: str) -> tuple[Frames, Text]:
    config, rng = CONFIGS[case], torch.Generator().manual_seed(2)
    z = torch.randn(B, config.traits.latent_channels, 2, H, W, generator=rng)
    levels = torch.tensor([[0.0, 0.9], [0.2, 0.4]])
    extra = torch.randn(B, 1, 20, generator=rng) if case == "kontext" else None
    text = Text(torch.randn(B, L, config.text_width, generator=rng), extra=extra)
    return Frames(z, ("context", "target"), torch.arange(2.0), levels), text


def target(x: Tensor, frames: Frames, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of the target frame, their levels and their places; it stands at image 0."""
    _, p, q = CONFIGS[case].traits.patch
    rows, columns = torch.meshgrid(torch.arange(H // p), torch.arange(W // q), indexing="ij")
    at = torch.stack([torch.zeros_like(rows), rows, columns], -1).flatten(0, 1).float()
    return x[:, -len(at) :], frames.sigma[:, 1:].expand(-1, len(at)), at


@cases
@torch.no_grad()
def test_tokens_of_a_target_placed_by_hand_give_the_numbers_of_the_stream(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    whole = stream_of(backbone, frames, text)
    x, sigma, at = target(whole.x, frames, case)
    first = stream_of(backbone, frames.only("context"), text)
    cond = backbone.place(sigma, at, text)
    second = Stream(backbone.blocks, x, (Segment("action", x.shape[1]),), cond)
    run([whole], everyone(["text", "context", "target"]))
    run([first, second], everyone(["text", "context", "action"]))
    torch.testing.assert_close(torch.cat([first.x, second.x], 1), whole.x, rtol=2e-5, atol=2e-5)


@cases
@torch.no_grad()
def test_a_placed_token_feels_its_own_level_and_place_only(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    x, sigma, at = target(stream_of(backbone, frames, text).x, frames, case)
    louder, moved = sigma.clone(), at.clone()
    louder[:, 3] = 1
    moved[5] = torch.tensor([-1.0, 0.5, 7.0])
    for block in backbone.blocks[0], backbone.blocks[-1]:
        one = block.project(x, backbone.place(sigma, at, text))[0]
        two = block.project(x, backbone.place(louder, at, text))[0]
        three = block.project(x, backbone.place(sigma, moved, text))[0]
        changed = (two.k - one.k).abs().amax((0, 1, 3)) > 1e-4
        assert changed.nonzero().flatten().tolist() == [3]
        changed = (three.k - one.k).abs().amax((0, 1, 3)) > 1e-4
        assert changed.nonzero().flatten().tolist() == [5]
        assert torch.equal(one.v, three.v)


@cases
def test_an_expert_attends_with_the_stream_and_every_weight_of_it_learns(case: str) -> None:
    torch.manual_seed(0)
    config, (frames, text) = CONFIGS[case], scene(case)
    backbone, expert = config.build(), config.expert(20, 28)
    assert config.traits.experts and len(expert.blocks) == config.traits.depth
    x = torch.randn(B, 4, 20)
    at = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [0.5, -1, -1], [1, -1, -1]])
    sigma = torch.tensor([[0.0, 0.8, 0.8, 0.8], [0.0, 0.3, 0.3, 0.3]])
    video = stream_of(backbone, frames, text)
    segments = (Segment("state", 1), Segment("action", 3))
    action = Stream(expert.blocks, x, segments, expert.place(sigma, at, text))
    run([video, action], everyone(["text", "context", "target", "state", "action"]))
    assert action.x.shape == x.shape
    (action.x.square().mean() + video.x.square().mean()).backward()
    dead = [n for n, p in expert.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert [n for n in dead if not n.endswith("to_k.bias")] == []


@cases
def test_an_expert_has_those_names_of_the_backbone_that_no_word_passes(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = {
        name.split(".")[0]
        for name in theirs.keys() - ours.keys()
        if not any(word in name for word in ("add", "context", "txt"))
    }
    time = {"klein": set(), "guided": {"time_guidance_embed"}, "kontext": {"time_text_embed"}}
    assert left == {"x_embedder", "norm_out", "proj_out"} | time[case]
    assert ours["transformer_blocks.1.attn.to_q.weight"].shape == (72, 20)
    assert ours["transformer_blocks.1.attn.to_out.0.weight"].shape == (20, 72)


@cases
def test_a_resized_stack_is_written_out_and_builds(case: str) -> None:
    config = CONFIGS[case].model_copy(update={"weights": "/models/flux"})
    small = config.resized([0, 2, 3], 2, 40)
    assert (small.weights, small.double_layers, small.single_layers) == (None, 1, 2)
    traits = small.traits
    assert (traits.depth, traits.width, traits.heads, traits.feed_forward) == (3, 48, 2, 40)
    assert traits.latent_channels == 16
    model: Any = small.build()
    assert model.traits == traits and len(model.blocks) == 3


def test_a_published_stack_can_be_cut() -> None:
    small = Flux2(variant="klein-4b").resized(range(3, 8), 24, 9216)
    assert (small.double_layers, small.single_layers, small.text_width) == (2, 3, 7680)


@cases
def test_a_stack_without_one_of_the_two_kinds_of_blocks_is_refused(case: str) -> None:
    with pytest.raises(WamkitError) as error:
        CONFIGS[case].resized([2, 3], 3, 96)
    assert error.value.what == (
        "found 0 double and 2 single blocks among [2, 3], expected at least one of each"
    )
    assert error.value.hint == "name blocks below 2 and from there on"
    with pytest.raises(WamkitError, match="expected places in a stack of 4, ascending"):
        CONFIGS[case].resized([0, 4], 3, 96)
