"""Tokens that belong to no frame pass Wan's blocks, or a narrower copy, beside the video."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_wan import Wan

from wamkit import WamkitError
from wamkit.attention import Stream, run
from wamkit.interfaces.backbone import stream_of
from wamkit.types import Frames, Segment, Text
from wamkit.visibility import everyone

B, T, H, W = 2, 3, 4, 6  # batch, latent frames, latent height and width
PER_FRAME = (H // 2) * (W // 2)  # tokens
CONFIG = Wan(variant="tiny")


def scene(config: Wan = CONFIG) -> tuple[Frames, Text]:
    rng = torch.Generator().manual_seed(2)
    levels = torch.tensor([[0.0, 0.9, 0.4], [0.2, 0.7, 0.3]])
    z = torch.randn(B, config.latent_channels, T, H, W, generator=rng)
    guide, extra = None, None
    if config.guide_channels:
        guide = torch.randn(B, config.guide_channels, T, H, W, generator=rng)
        extra = torch.randn(B, 5, config.extra_width, generator=rng)
    roles = ("context", "target", "target")
    frames = Frames(z, roles, torch.tensor([0.0, 1.0, 2.5]), levels, guide)
    return frames, Text(torch.randn(B, 7, config.text_width, generator=rng), extra=extra)


def cut(x: Tensor, frames: Frames) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of the last two frames, their levels and their places."""
    count = 2 * PER_FRAME
    sigma = frames.sigma[:, 1:].repeat_interleave(PER_FRAME, 1)
    rows, columns = torch.meshgrid(torch.arange(H // 2), torch.arange(W // 2), indexing="ij")
    at = [torch.stack([time.expand(rows.shape), rows, columns], -1) for time in frames.times[1:]]
    return x[:, -count:], sigma, torch.stack(at).flatten(0, 2)


@pytest.mark.parametrize("variant", ["2.2-ti2v-5b", "2.1-i2v-14b"])
@torch.no_grad()
def test_tokens_of_a_video_placed_by_hand_give_the_numbers_of_the_video(variant: str) -> None:
    config = Wan.model_validate({"variant": variant}).tiny()
    backbone, (frames, text) = config.build(), scene(config)
    whole = stream_of(backbone, frames, text)
    x, sigma, at = cut(whole.x, frames)
    first = stream_of(backbone, frames.only("context"), text)
    cond = backbone.place(sigma, at, text)
    second = Stream(backbone.blocks, x, (Segment("action", x.shape[1]),), cond)
    run([whole], everyone(["context", "target"]))
    run([first, second], everyone(["context", "action"]))
    torch.testing.assert_close(torch.cat([first.x, second.x], 1), whole.x, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_a_placed_token_feels_its_own_level_and_place_only() -> None:
    backbone, (frames, text) = CONFIG.build(), scene()
    x, sigma, at = cut(stream_of(backbone, frames, text).x, frames)

    one = backbone.blocks[0].project(x, backbone.place(sigma, at, text))[0]
    louder, moved = sigma.clone(), at.clone()
    louder[:, 3] = 1
    moved[5] = torch.tensor([-1.0, 0.5, 7.0])
    two = backbone.blocks[0].project(x, backbone.place(louder, at, text))[0]
    three = backbone.blocks[0].project(x, backbone.place(sigma, moved, text))[0]
    changed = (two.k - one.k).abs().amax((0, 1, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [3]
    changed = (three.k - one.k).abs().amax((0, 1, 3)) > 1e-4
    assert changed.nonzero().flatten().tolist() == [5]
    assert torch.equal(one.v, three.v)


@pytest.mark.parametrize("variant", ["2.2-ti2v-5b", "2.1-i2v-14b"])
def test_an_expert_attends_with_the_video_and_every_weight_of_it_learns(variant: str) -> None:
    config = Wan.model_validate({"variant": variant}).tiny()
    torch.manual_seed(0)
    backbone, expert, (frames, text) = config.build(), config.expert(20, 28), scene(config)
    assert config.traits.experts and len(expert.blocks) == config.traits.depth
    x = torch.randn(B, 4, 20)
    at = torch.tensor([[-1.0, -1, -1], [0, -1, -1], [0.5, -1, -1], [1, -1, -1]])
    sigma = torch.tensor([[0.0, 0.8, 0.8, 0.8], [0.0, 0.3, 0.3, 0.3]])
    video = stream_of(backbone, frames, text)
    segments = (Segment("state", 1), Segment("action", 3))
    action = Stream(expert.blocks, x, segments, expert.place(sigma, at, text))
    run([video, action], everyone(["context", "target", "state", "action"]))
    assert action.x.shape == x.shape
    (action.x.square().mean() + video.x.square().mean()).backward()
    dead = [n for n, p in expert.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    # A bias added to all keys cancels in the softmax where all of them carry it.
    assert [n for n in dead if not n.endswith("to_k.bias")] == []


def test_an_expert_has_the_names_of_the_backbone() -> None:
    ours = dict(CONFIG.expert(20, 28).named_parameters())
    theirs = dict(CONFIG.build().named_parameters())
    assert ours.keys() < theirs.keys()
    assert theirs.keys() - ours.keys() == {
        "patch_embedding.weight", "patch_embedding.bias", "proj_out.weight", "proj_out.bias",
        "scale_shift_table",
    }  # fmt: skip
    assert ours["blocks.0.attn1.to_q.weight"].shape == (72, 20)
    assert ours["blocks.0.attn2.to_out.0.weight"].shape == (20, 72)
    assert ours["blocks.2.ffn.net.2.weight"].shape == (20, 28)


def test_a_resized_stack_is_written_out_and_builds() -> None:
    large = Wan(variant="2.2-ti2v-5b", weights="/models/wan")
    small: Any = large.resized([0, 7, 14, 29], 16, 8192)
    assert (small.weights, small.layers, small.heads, small.head_size) == (None, 4, 16, 128)
    traits = small.traits
    assert (traits.depth, traits.width, traits.feed_forward) == (4, 2048, 8192)
    assert (traits.text_width, traits.latent_channels) == (4096, 48)
    tiny = CONFIG.resized([0, 2], 2, 40)
    model: Any = tiny.build()
    assert model.traits == tiny.traits and len(model.blocks) == 2
    assert model.blocks[0].attn1.to_q.weight.shape == (48, 48)


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 3], [-1, 0]])
def test_layers_that_a_stack_does_not_have_are_refused(layers: list[int]) -> None:
    with pytest.raises(WamkitError) as error:
        CONFIG.resized(layers, 3, 96)
    assert str(error.value) == (
        f"found layers {layers}, expected places in a stack of 3, ascending\n"
        "  hint: name each layer once, from 0 to 2"
    )


@pytest.mark.parametrize(("heads", "feed_forward"), [(0, 96), (3, 0)])
def test_a_stack_without_heads_or_feed_forward_is_refused(heads: int, feed_forward: int) -> None:
    with pytest.raises(WamkitError, match="expected a multiple of 1 heads and a positive width"):
        CONFIG.resized([0], heads, feed_forward)
