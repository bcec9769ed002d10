"""The blocks of the reading transformer, and the embedder of noise levels.

    x --ada norm--> self-attention --> + --> x
    x --cross-attention to hidden states of a layer--> + --> x
    x --ada norm--> feed-forward --> + --> x

The block is GE-Act's (models/action_patches/patches.py, commit 7e007c7): norms without weights, one
modulation for all blocks and a table for each, no norm and no gate around the cross-attention.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.engine.layers import (
    KV,
    Embedder,
    FeedForward,
    RMSNorm,
    RotaryEmbedding,
    ada_norm,
    ada_rms_norm,
    attend_text,
    fused_linear,
    gated_add,
    rotate_pairs,
    sinusoid,
    split_heads,
)

if TYPE_CHECKING:
    from . import Reader

FREQUENCIES = 256  # width of the sinusoid of a noise level


class Attention(nn.Module):
    """Attention at the head's width to tokens of any width; q and k normalized over all heads."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(self, width: int, head_dim: int, source: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(source, width)
        self.to_v = nn.Linear(source, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = RMSNorm(width, eps=1e-5)
        self.norm_k = RMSNorm(width, eps=1e-5)

    def kv(self, x: Tensor, mask: Tensor | None = None) -> KV:
        """Keys and values of tokens [B, S, source]; `mask` [B, S] is as `Text.mask`."""
        k, v = fused_linear(self, x, "to_k", "to_v")
        return KV(split_heads(self.norm_k(k), self.head_dim), split_heads(v, self.head_dim), mask)

    def cross(self, x: Tensor, kv: KV) -> Tensor:
        """Attention of tokens [B, S, D] to others: [B, S, D]."""
        return self._attend(split_heads(self.norm_q(self.to_q(x)), self.head_dim), kv)

    def forward(self, x: Tensor, rotary: RotaryEmbedding | None) -> Tensor:
        """Attention of tokens among themselves, [B, S, D] to [B, S, D]."""
        q, k, v = fused_linear(self, x, "to_q", "to_k", "to_v")
        q, k = self._rotate(self.norm_q(q), rotary), self._rotate(self.norm_k(k), rotary)
        return self._attend(q, KV(k, split_heads(v, self.head_dim)))

    def _attend(self, q: Tensor, kv: KV) -> Tensor:
        return self.to_out[0](attend_text(q, kv))

    def _rotate(self, x: Tensor, rotary: RotaryEmbedding | None) -> Tensor:
        """[B, S, D], rotated over the whole width, as heads [B, H, S, E]."""
        if rotary is not None:
            x = rotate_pairs(x[:, None], rotary)[:, 0]
        return split_heads(x, self.head_dim)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and last follow the noise level."""

    def __init__(self, config: Reader, source: int) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = Attention(width, config.head_dim, width)
        self.attn2 = Attention(width, config.head_dim, source)
        self.ffn = FeedForward(width, config.mlp_dim)

    def forward(
        self, x: Tensor, modulation: Tensor, kv: KV, rotary: RotaryEmbedding | None
    ) -> Tensor:
        """[B, S, D] to [B, S, D]; `modulation` [B or 1, S or 1, 6, D] float32."""
        rows = self.scale_shift_table.float() + modulation
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = rows.unbind(2)
        x = gated_add(x, gate, self.attn1(ada_rms_norm(x, shift, 1 + scale), rotary))
        x = x + self.attn2.cross(x, kv)
        return gated_add(x, gate_ffn, self.ffn(ada_rms_norm(x, shift_ffn, 1 + scale_ffn)))


@torch.compiler.nested_compile_region
def _read_block(
    block: Block, x: Tensor, modulation: Tensor, kv: KV, rotary: RotaryEmbedding | None
) -> Tensor:
    """One block; where a policy runs compiled, equal ones are compiled once."""
    return block(x, modulation, kv, rotary)


def read_blocks(
    blocks: Iterable[Block],
    table: Tensor,
    x: Tensor,
    levels: Tensor,
    memory: Sequence[KV],
    rotary: RotaryEmbedding | None,
) -> Tensor:
    """Tokens through all blocks and the last norm.

    Args:
        blocks: In order.
        table: Shift and scale of the last norm [2, D].
        x: Tokens [B, S, D].
        levels: Embedding and modulation of noise levels [B or 1, S or 1, 7, D] float32.
        memory: Keys and values for each block.
        rotary: Positions of the tokens.
    """
    embedding, modulation = levels[:, :, :1], levels[:, :, 1:]
    for block, kv in zip(blocks, memory, strict=True):
        x = _read_block(block, x, modulation, kv, rotary)
    shift, scale = (table.float() + embedding).unbind(2)
    return ada_norm(x, shift, 1 + scale)


class Levels(nn.Module):
    """Noise levels as one embedding: that of the action alone, or with that of the frames.

    The two meet in a bilinear map of low rank, as in mimic-video (arXiv 2512.15692); with a bias on
    each side the map has terms of either alone.
    """

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.action = Embedder(FREQUENCIES, width, nn.SiLU())
        if rank is not None:
            self.video = Embedder(FREQUENCIES, width, nn.SiLU())
            self.left, self.right = nn.Linear(width, rank), nn.Linear(width, rank)
            self.out = nn.Linear(rank, width)
        self.both = rank is not None

    def forward(self, sigmas: Tensor, video: Tensor) -> Tensor:
        """Levels of tokens [R], and of the frames they read [R], to [R, D] float32."""
        own: Tensor = self.action(sinusoid(1000 * sigmas, FREQUENCIES))
        if not self.both:
            return own
        frames = self.right(self.video(sinusoid(1000 * video, FREQUENCIES)))
        product: Tensor = self.out(self.left(own) * frames)
        return product
