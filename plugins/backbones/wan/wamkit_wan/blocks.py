"""One block of Wan's transformer, opened at its self-attention.

    x --ada norm--> q k v --(attention)--> * gate + --> x
    x --norm--> q --(attention to the prompt, and to the image)--> + --> x
    x --ada norm--> feed-forward --> * gate + --> x

Shift, scale and gate belong to a group of tokens with one noise level and are computed in float32,
as are norms and rotary positions; residuals are added in float32 where there is a gate. The width D
need not be H * E: an action expert is narrower than its attention.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from wamkit.engine.layers import (
    KV,
    QKV,
    FeedForward,
    LayerNorm,
    RMSNorm,
    RotaryEmbedding,
    TextCond,
    TextKV,
    ada_norm,
    attend_text,
    fused_linear,
    gated_add,
    one_plus_scale,
    rotate_pairs,
    split_heads,
)


class WanSigma(NamedTuple):
    """Noise levels for blocks and final layer, float32."""

    embedding: Tensor  # [R, D]
    projection: Tensor  # [R, 6, D]


class Attention(nn.Module):
    """Projections under diffusers' names; q and k are normalized over all heads at once."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("to_k", "to_v"), ("add_k_proj", "add_v_proj"))

    def __init__(self, width: int, num_heads: int, head_dim: int, *, image: bool = False) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, num_heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(inner), RMSNorm(inner)
        if image:
            self.add_k_proj, self.add_v_proj = nn.Linear(width, inner), nn.Linear(width, inner)
            self.norm_added_k = RMSNorm(inner)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E]."""
        q, k, v = fused_linear(self, x, "to_q", "to_k", "to_v")
        size = self.head_dim
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size)

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return split_heads(self.norm_q(self.to_q(x)), self.head_dim)

    def kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] to two of [B, H, S, E]."""
        k, v = fused_linear(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_dim), split_heads(v, self.head_dim)

    def image_kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same through the projections that only image tokens take."""
        k, v = fused_linear(self, x, "add_k_proj", "add_v_proj")
        return split_heads(self.norm_added_k(k), self.head_dim), split_heads(v, self.head_dim)

    def out(self, attended: Tensor) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return self.to_out[0](attended)


class WanBlock(nn.Module):
    """Self-attention, cross-attention to text and image, feed-forward."""

    def __init__(
        self, width: int, num_heads: int, head_dim: int, mlp_dim: int, *, image: bool = False
    ) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = Attention(width, num_heads, head_dim)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.attn2 = Attention(width, num_heads, head_dim, image=image)
        self.ffn = FeedForward(width, mlp_dim)

    def modulation(self, sigma: WanSigma) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""
        return one_plus_scale(self.scale_shift_table.float() + sigma.projection)

    def text_kv(self, text: TextCond) -> TextKV:
        """Keys and values of the prompt and of the image, as far as they are there."""
        attn, text_kv, image_kv = self.attn2, None, None
        if text.tokens is not None:
            text_kv = KV(*attn.kv(text.tokens), text.mask)
        if text.image is not None:
            image_kv = KV(*attn.image_kv(text.image))
        return TextKV(text_kv, image_kv)

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        shift, scale, *rest = modulation.unbind(2)
        q, k, v = self.attn1.qkv(ada_norm(x, shift, scale))
        return QKV(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v), (x, *rest)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV
    ) -> Tensor:
        x, gate, shift, scale, gate_ffn = carry
        x = gated_add(x, gate, self.attn1.out(attended))
        x = x + self._cross_attention(self.norm2(x), text_kv)
        return gated_add(x, gate_ffn, self.ffn(ada_norm(x, shift, scale)))

    def _cross_attention(self, x: Tensor, text_kv: TextKV) -> Tensor:
        q = self.attn2.query(x)
        assert text_kv.text is not None
        found = attend_text(q, text_kv.text)
        if text_kv.image is not None:
            found = found + attend_text(q, text_kv.image)
        return self.attn2.out(found)
