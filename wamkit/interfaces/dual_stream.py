"""Blocks of two streams: text and frames have weights of their own and attend jointly.

    text   --ada norm--> q k v --+           +--> * gate + --ada norm--> feed-forward --> * gate +
                                 | attention |
    frames --ada norm--> q k v --+           +--> * gate + --ada norm--> feed-forward --> * gate +

As in MM-DiT (arXiv:2403.03206), FLUX and Qwen-Image. Shift, scale and gate belong to a group of
tokens with one noise level and are computed in float32, as are norms and rotary positions;
residuals are added in float32. The width D need not be H * E: an action expert is narrower than
what it attends with, and no text tokens pass it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from ..engine.conditioning import TextCond
from ..engine.layers import (
    QKV,
    RMSNorm,
    RotaryEmbedding,
    ada_norm,
    fused_linear,
    gated_add,
    rotate_pairs,
    split_heads,
)

Carry = tuple[Tensor, ...]
FRAMES = ("to_q", "to_k", "to_v")
TEXT = ("add_q_proj", "add_k_proj", "add_v_proj")


class JointAttention(nn.Module):
    """Projections of both streams under diffusers' names: `add_*` are those of text tokens.

    Args:
        width: D, of the tokens.
        num_heads: H.
        head_dim: E.
        text: Whether text tokens pass, so that their projections exist.
        bias: Whether the projections have one.
    """

    fuse_groups = (FRAMES, TEXT)

    def __init__(
        self, width: int, num_heads: int, head_dim: int, *, text: bool, bias: bool = True
    ) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, num_heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner, bias=bias) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width, bias=bias)])
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        if text:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                nn.Linear(width, inner, bias=bias) for _ in range(3)
            )
            self.to_add_out = nn.Linear(inner, width, bias=bias)
            self.norm_added_q, self.norm_added_k = RMSNorm(head_dim), RMSNorm(head_dim)

    def qkv(self, x: Tensor, of_text: bool) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E] without positions."""
        norm_q, norm_k = (
            (self.norm_added_q, self.norm_added_k) if of_text else (self.norm_q, self.norm_k)
        )
        rows = fused_linear(self, x, *(TEXT if of_text else FRAMES))
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return norm_q(q), norm_k(k), v

    def out(self, attended: Tensor, of_text: bool) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return (self.to_add_out if of_text else self.to_out[0])(attended)  # type: ignore[no-any-return]


class DualStreamBlock(nn.Module, ABC):
    """`Block` of the frames, with other weights for text tokens: see `TextLane`."""

    attn: JointAttention

    @abstractmethod
    def modulation(self, sigma: Any, of_text: bool = False) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""

    @abstractmethod
    def feed_forward(self, x: Tensor, of_text: bool) -> Tensor:
        """[B, S, D] to [B, S, D]."""

    def text_kv(self, text: TextCond) -> None:
        """Return None: no block attends to text outside its stream."""

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding, of_text: bool = False
    ) -> tuple[QKV, Carry]:
        """As `Block.pre_attention`; `of_text` chooses the stream."""
        shift, scale, *_ = modulation.unbind(2)
        q, k, v = self.attn.qkv(ada_norm(x, shift, scale), of_text)
        return QKV(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v), (x,)

    def post_attention(
        self,
        attended: Tensor,
        carry: Carry,
        modulation: Tensor,
        text_kv: None,
        of_text: bool = False,
    ) -> Tensor:
        """As `Block.post_attention`; `of_text` chooses the stream."""
        (x,), (_, _, gate, shift, scale, gate_ff) = carry, modulation.unbind(2)
        x = gated_add(x, gate, self.attn.out(attended, of_text))
        return gated_add(x, gate_ff, self.feed_forward(ada_norm(x, shift, scale), of_text))


class TextLane:
    """`Block` of the text tokens in a dual-stream block, which keeps the weights.

    It calls the block's own methods, so that what is wrapped around these holds for text too.
    """

    def __init__(self, block: DualStreamBlock) -> None:
        self.block = block

    def modulation(self, sigma: Any) -> Tensor:
        """As `Block.modulation`."""
        return self.block.modulation(sigma, True)

    def text_kv(self, text: TextCond) -> None:
        """Return None: no block attends to text outside its stream."""

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, Carry]:
        """As `Block.pre_attention`."""
        return self.block.pre_attention(x, modulation, rotary, True)

    def post_attention(
        self, attended: Tensor, carry: Carry, modulation: Tensor, text_kv: None
    ) -> Tensor:
        """As `Block.post_attention`."""
        return self.block.post_attention(attended, carry, modulation, text_kv, True)
