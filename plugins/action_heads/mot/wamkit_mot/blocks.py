"""The expert's own block, the same for any backbone, and its conditioning.

    x --ada norm--> q k v --(attention shared with the video)--> + --text--> + --mlp-dim--> +

Parameter names follow diffusers' video transformers, so that an expert can be initialized from one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.config.parts import Traits
from wamkit.engine.layers import (
    KV,
    QKV,
    Embedder,
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
    sinusoid,
    split_heads,
)

FREQUENCIES = 256  # width of the sinusoid of the noise level


class ExpertSigma(NamedTuple):
    """Noise levels as the expert's blocks read them."""

    projection: Tensor  # [R, 6, D] float32


class Attention(nn.Module):
    """Projections into and out of the backbone's head space; q and k normalized over all heads."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(
        self, width: int, num_heads: int, num_kv_heads: int, head_dim: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.to_q = nn.Linear(width, num_heads * head_dim, bias=bias)
        self.to_k = nn.Linear(width, num_kv_heads * head_dim, bias=bias)
        self.to_v = nn.Linear(width, num_kv_heads * head_dim, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(num_heads * head_dim, width, bias=bias)])
        self.norm_q = RMSNorm(num_heads * head_dim)
        self.norm_k = RMSNorm(num_kv_heads * head_dim)

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q [B, H, S, E], k and v [B, K, S, E]."""
        q, k, v = fused_linear(self, x, "to_q", "to_k", "to_v")
        size = self.head_dim
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size)

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return split_heads(self.norm_q(self.to_q(x)), self.head_dim)

    def kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] to two of [B, K, S, E]."""
        k, v = fused_linear(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_dim), split_heads(v, self.head_dim)


class ExpertBlock(nn.Module):
    """One block of the expert, split at its self-attention."""

    def __init__(self, width: int, mlp_dim: int, traits: Traits, *, text: bool, bias: bool) -> None:
        super().__init__()
        shape = traits.num_heads, traits.num_kv_heads, traits.head_dim
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = Attention(width, *shape, bias=bias)
        self.norm2 = LayerNorm(width, eps=1e-6) if text else None
        self.attn2 = Attention(width, *shape, bias=bias) if text else None
        self.ffn = FeedForward(width, mlp_dim)

    def modulation(self, sigma: ExpertSigma) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""
        return one_plus_scale(self.scale_shift_table.float() + sigma.projection)

    def text_kv(self, text: TextCond) -> TextKV | None:
        """Keys and values of the prompt, if the block reads it."""
        if self.attn2 is None or text.tokens is None:
            return None
        return TextKV(KV(*self.attn2.kv(text.tokens), text.mask))

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding | None
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        shift, scale, *rest = modulation.unbind(2)
        q, k, v = self.attn1.qkv(ada_norm(x, shift, scale))
        if rotary is not None:
            q, k = rotate_pairs(q, rotary), rotate_pairs(k, rotary)
        return QKV(q, k, v), (x, *rest)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV | None
    ) -> Tensor:
        x, gate, shift, scale, gate_ffn = carry
        x = gated_add(x, gate, self.attn1.to_out[0](attended))
        if self.attn2 is not None and self.norm2 is not None and text_kv is not None:
            assert text_kv.text is not None
            found = attend_text(self.attn2.query(self.norm2(x)), text_kv.text)
            x = x + self.attn2.to_out[0](found)
        return gated_add(x, gate_ffn, self.ffn(ada_norm(x, shift, scale)))


class ConditionEmbedder(nn.Module):
    """The embedders of noise level and prompt, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.time_embedder = Embedder(FREQUENCIES, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        gelu = nn.GELU("tanh")
        self.text_embedder = Embedder(text_width, width, gelu) if text_width else None

    def projection(self, sigmas: Tensor) -> Tensor:
        """Levels [R] to shifts, scales and gates of all blocks [R, 6, D] float32."""
        y = F.silu(embed_sinusoid(self.time_embedder, sigmas)).to(self.time_proj.weight.dtype)
        return self.time_proj(y).float().unflatten(-1, (6, -1))


def embed_sinusoid(embedder: nn.Module, sigmas: Tensor) -> Tensor:
    """Noise levels [R] as [R, D] float32."""
    dtype = embedder.get_parameter("linear_1.weight").dtype
    return embedder(sinusoid(1000 * sigmas.float(), FREQUENCIES).to(dtype)).float()
