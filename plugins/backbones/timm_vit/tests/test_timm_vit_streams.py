"""Tokens that are no pictures pass a vision transformer's blocks beside the pictures'."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from wamkit_timm_vit import TimmViT

from wamkit import WamkitError
from wamkit.attention import Stream, run
from wamkit.interfaces.backbone import stream_of
from wamkit.types import Frames, Segment, Text
from wamkit.visibility import everyone

CONFIGS: dict[str, Any] = {
    variant: TimmViT.model_validate({"variant": variant, "patch": 4}).tiny()
    for variant in ("vit_base_patch14_dinov2", "vit_base_patch16_siglip_224")
}
CONFIGS["vit_base_patch16_dinov3"] = TimmViT(variant="vit_base_patch16_dinov3", patch=4).tiny()
cases = pytest.mark.parametrize("case", CONFIGS)
B, H, W = 2, 4, 6  # batch, patches in a column and in a row


def scene(case: str) -> tuple[Frames, Text]:
    rng = torch.Generator().manual_seed(2)
    z = torch.randn(B, CONFIGS[case].traits.latent_channels, 2, H, W, generator=rng)
    frames = Frames(z, ("context", "past"), torch.arange(2.0), torch.zeros(B, 2))
    return frames, Text(torch.randn(B, 3, 64, generator=rng))


def second(x: Tensor, case: str) -> tuple[Tensor, Tensor, Tensor]:
    """The tokens of the second picture, their levels and their places in [-1, 1]."""
    extra = CONFIGS[case].traits.frame_tokens
    axes = [(2 * torch.arange(n) + 1) / n - 1 for n in (H, W)]
    rows, columns = torch.meshgrid(*axes, indexing="ij")
    at = torch.stack([torch.ones_like(rows), rows, columns], -1).flatten(0, 1)
    at = F.pad(at, (0, 0, extra, 0))
    return x[:, -len(at) :], torch.zeros(B, len(at)), at


@cases
@torch.no_grad()
def test_tokens_of_a_picture_placed_by_hand_give_the_numbers_of_the_pictures(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    whole = stream_of(backbone, frames, text)
    x, sigma, at = second(whole.x, case)
    first = stream_of(backbone, frames.only("context"), text)
    cond = backbone.place(sigma, at, text)
    other = Stream(backbone.blocks, x, (Segment("action", x.shape[1]),), cond)
    run([whole], everyone(["context", "past"]))
    run([first, other], everyone(["context", "action"]))
    torch.testing.assert_close(torch.cat([first.x, other.x], 1), whole.x, rtol=1e-5, atol=1e-5)


@cases
@torch.no_grad()
def test_only_rotary_positions_turn_a_placed_token(case: str) -> None:
    backbone, (frames, text) = CONFIGS[case].build(), scene(case)
    x, sigma, at = second(stream_of(backbone, frames, text).x, case)
    moved = at.clone()
    moved[5] = torch.tensor([-1.0, 0.3, 0.9])
    one = backbone.blocks[0].project(x, backbone.place(sigma, at, text))[0]
    two = backbone.blocks[0].project(x, backbone.place(sigma, moved, text))[0]
    changed = (two.k - one.k).abs().amax((0, 1, 3)).nonzero().flatten().tolist()
    assert changed == ([5] if "dinov3" in case else [])


@cases
def test_a_resized_stack_is_written_out_and_builds(case: str) -> None:
    config = CONFIGS[case].model_copy(update={"weights": "/models/large"})
    small = config.resized([0, 2], 3, 20)
    traits = small.traits
    assert small.weights is None and not traits.experts
    assert (traits.depth, traits.width, traits.feed_forward) == (2, 36, 20)
    model: Any = small.build()
    assert model.traits == traits and len(model.blocks) == 2
    frames, text = scene(case)
    assert stream_of(model, frames, text).x.shape[-1] == 36


def test_a_stack_that_cannot_be_cut_so_is_refused() -> None:
    with pytest.raises(WamkitError, match="expected places in a stack of 12, ascending"):
        TimmViT().resized([1, 12], 3, 40)
    with pytest.raises(WamkitError, match="found 0 heads and a feed-forward of 40"):
        TimmViT().resized([0], 0, 40)
