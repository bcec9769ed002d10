"""Tokens that belong to no frame pass Cosmos' blocks, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_cosmos import Cosmos

from wamkit import WamkitError
from wamkit.attention import Stream, run
from wamkit.interfaces.backbone import stream_of
from wamkit.types import Frames, Segment, Text
from wamkit.visibility import everyone

CONFIGS: dict[str, Any] = {
    "predict2": Cosmos(variant="predict2-2b").tiny(),
    "predict2.5": Cosmos(variant="predict2.5-2b", fps=16).tiny(),
}
cases = pytest.mark.parametrize("case", CONFIGS)
B, H, W, L = 2, 4, 6, 7  # batch, latent height and width, words


def scene(case: str) -> tuple[Frames, Text]:
    """A context frame and two targets, each on a level of its own, and some words."""
    traits, rng = CONFIGS[case].traits, torch.Generator().manual_seed(2)
    z = torch.randn(B, traits.latent_channels, 3, H, W, generator=rng)
    levels = torch.tensor([[0.0, 0.9, 0.4], [0.2, 0.7, 0.3]])
    text = Text(torch.randn(B, L, traits.text_width, generator=rng))
    return Frames(z, ("context", "target", "target"), torch.tensor([0.0, 1.0, 2.5]), levels), text


def targets(x: Tensor, frames: Frames, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of the target frames, their levels and their places."""
    _, p, q = CONFIGS[case].traits.patch
    rows, columns = torch.meshgrid(torch.arange(H // p), torch.arange(W // q), indexing="ij")
    at = torch.stack(
        [torch.stack([t.expand(rows.shape), rows, columns], -1) for t in frames.times[1:]]
    ).flatten(0, 2)
    sigma = frames.sigma[:, 1:].repeat_interleave(rows.numel(), 1)
    return x[:, -len(at) :], sigma, at


@cases
@torch.no_grad()
def test_tokens_of_a_video_placed_by_hand_give_the_numbers_of_the_video(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    whole = stream_of(backbone, frames, text)
    x, sigma, at = targets(whole.x, frames, case)
    first = stream_of(backbone, frames.only("context"), text)
    cond = backbone.place(sigma, at, text)
    second = Stream(backbone.blocks, x, (Segment("action", x.shape[1]),), cond)
    run([whole], everyone(["text", "context", "target"]))
    run([first, second], everyone(["text", "context", "action"]))
    torch.testing.assert_close(torch.cat([first.x, second.x], 1), whole.x, rtol=1e-5, atol=1e-5)


@cases
@torch.no_grad()
def test_a_placed_token_feels_its_own_level_and_place_only(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    x, sigma, at = targets(stream_of(backbone, frames, text).x, frames, case)
    louder, moved = sigma.clone(), at.clone()
    louder[:, 3] = 1
    moved[5] = torch.tensor([-1.0, 0.5, 7.0])
    one = backbone.blocks[0].project(x, backbone.place(sigma, at, text))[0]
    two = backbone.blocks[0].project(x, backbone.place(louder, at, text))[0]
    three = backbone.blocks[0].project(x, backbone.place(sigma, moved, text))[0]
    changed = (two.k - one.k).abs().amax((0, 1, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [3]
    changed = (three.k - one.k).abs().amax((0, 1, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [5]
    assert torch.equal(one.v, three.v)


@cases
def test_an_expert_attends_with_the_video_and_every_weight_of_it_learns(case: str) -> None:
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
    for name, weight in expert.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name


@cases
def test_an_expert_has_the_names_of_the_backbone(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = {name.split(".")[0] for name in theirs.keys() - ours.keys()}
    assert left == {"patch_embed", "norm_out", "proj_out"}
    assert ours["transformer_blocks.0.attn1.to_q.weight"].shape == (72, 20)
    assert ours["transformer_blocks.0.attn2.to_out.0.weight"].shape == (20, 72)
    assert ours["transformer_blocks.2.ff.net.2.weight"].shape == (20, 28)


@cases
def test_a_resized_stack_is_written_out_and_builds(case: str) -> None:
    config = CONFIGS[case].model_copy(update={"weights": "/models/large"})
    small = config.resized([0, 1], 2, 40)
    traits = small.traits
    assert small.weights is None
    assert (traits.depth, traits.heads, traits.feed_forward) == (2, 2, 40)
    assert traits.head_size == config.traits.head_size
    assert traits.width == 2 * traits.head_size
    assert traits.heads * config.traits.key_heads == traits.key_heads * config.traits.heads
    assert (traits.latent_channels, traits.text_width) == (
        config.traits.latent_channels,
        config.traits.text_width,
    )
    model: Any = small.build()
    assert model.traits == traits and len(model.blocks) == 2
    frames, text = scene(case)
    assert stream_of(model, frames, text).x.shape[-1] == traits.width


@cases
def test_a_stack_that_cannot_be_cut_so_is_refused(case: str) -> None:
    config, depth = CONFIGS[case], CONFIGS[case].traits.depth
    with pytest.raises(WamkitError) as error:
        config.resized([1, depth], 2, 40)
    assert error.value.what == (
        f"found layers [1, {depth}], expected places in a stack of {depth}, ascending"
    )
    with pytest.raises(WamkitError, match="found 0 heads and a feed-forward of 40"):
        config.resized([0], 0, 40)
