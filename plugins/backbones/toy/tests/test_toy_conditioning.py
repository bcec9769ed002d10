"""Each way of conditioning gives the blocks of the toy their noise level, and keeps its promise."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from wamkit_toy import Toy
from wamkit_toy.conditioning import BLOCKS, CrossAttentionBlock

from wamkit.engine.layers import KV, split_heads
from wamkit.interfaces import denoise
from wamkit.interfaces.types import Frames, Text
from wamkit.testing.fixtures import randomize_weights
from wamkit.testing.parity import float64, other_values, same_values, to_float64

SIZES: dict[str, Any] = {
    "depth": 2,
    "num_heads": 2,
    "head_dim": 12,
    "text_width": 16,
    "latent_channels": 3,
}


def scene(levels: list[float]) -> tuple[Frames, Text]:
    """Target frames at these levels, and a prompt."""
    rng = torch.Generator().manual_seed(0)
    z = torch.randn(1, 3, len(levels), 4, 4, generator=rng)
    times, roles = tuple(map(float, range(len(levels)))), ("target",) * len(levels)
    text = Text(torch.randn(1, 5, 16, generator=rng))
    return Frames(z, roles, times, torch.tensor([levels])), text


def test_every_setting_has_a_block() -> None:
    assert set(get_args(Toy.model_fields["conditioning"].annotation)) == set(BLOCKS)


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
@float64()
def test_a_frame_follows_its_own_level(name: str) -> None:
    backbone = to_float64(randomize_weights(Toy(**SIZES, conditioning=name).build()))
    one, other = (denoise(backbone, *scene([0.2, level])) for level in (0.2, 0.9))
    other_values(one[:, :, 1], other[:, :, 1], 1e-4)


def test_adaln_zero_differs_from_adaln_by_its_first_weights_alone() -> None:
    torch.manual_seed(0)
    one = Toy(**SIZES, conditioning="adaln").build().state_dict()
    torch.manual_seed(0)
    zero = Toy(**SIZES, conditioning="adaln_zero").build().state_dict()
    assert one.keys() == zero.keys()
    differ = {name for name in one if not torch.equal(one[name], zero[name])}
    assert differ == {f"blocks.{i}.ada.{kind}" for i in (0, 1) for kind in ("weight", "bias")}
    assert not any(zero[name].any() for name in differ)


@torch.no_grad()
def test_a_block_of_adaln_zero_at_first_adds_only_what_it_reads_of_the_prompt() -> None:
    block: Any = Toy(**SIZES, conditioning="adaln_zero").build().blocks[0]
    x, attended = torch.randn(2, 2, 4, 24, generator=torch.Generator().manual_seed(0))
    rows = block.modulation(torch.ones(1, 24))[None]
    carry = (x, *rows.unbind(2)[2:])
    block.text_out.weight.zero_()
    block.text_out.bias.zero_()
    text_kv = block.text_kv(Toy(**SIZES).build().embed_text(Text(torch.ones(2, 5, 16))))
    assert torch.equal(block.post_attention(attended, carry, rows, text_kv), x)


@torch.no_grad()
@float64()
def test_the_level_is_one_more_key_under_one_softmax() -> None:
    block = CrossAttentionBlock(24, 2, 12, 48).double()
    rng = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    q, text, level = draw(1, 2, 6, 12), KV(draw(1, 2, 5, 12), draw(1, 2, 5, 12)), draw(1, 1, 2, 24)
    k, v = (split_heads(z, 12) for z in level.unbind(2))  # [1, 2, 1, 12]
    whole = KV(torch.cat([text.k, k], 2), torch.cat([text.v, v], 2))
    expected = torch.nn.functional.scaled_dot_product_attention(q, whole.k, whole.v)
    found = block.attend(q, text, level)
    same_values(found, expected.transpose(1, 2).flatten(2))
