"""The expert's own block, the same beside any backbone, and what it is conditioned on.

    x --adaLN--> q k v --(attention shared with the video)--> + --text--> + --feed-forward--> +

Parameter names follow diffusers' video transformers, so that an expert can be initialized from one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wamkit.acceleration.fused_linear import projected
from wamkit.config.parts import Traits
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import (
    Embedder,
    FeedForward,
    LayerNorm,
    RMSNorm,
    modulated,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.interfaces.text import told
from wamkit.interfaces.types import Text

LEVELS = 256  # width of the sinusoid of the noise level

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


@dataclass(frozen=True)
class Conditioning:
    """What the expert's blocks need besides tokens."""

    modulation: Tensor  # [B, 6, S or 1, D] float32
    turn: Turn | None  # None where positions are not rotary
    words: Tensor | None  # [B, L, D] the instruction at the expert's width
    text: Text  # its mask, and what is computed once from it


class Attention(nn.Module):
    """Projections into and out of the backbone's head space; q and k normalized over all heads."""

    together = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(
        self, width: int, heads: int, key_heads: int, head_size: int, *, bias: bool
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.to_q = nn.Linear(width, heads * head_size, bias=bias)
        self.to_k = nn.Linear(width, key_heads * head_size, bias=bias)
        self.to_v = nn.Linear(width, key_heads * head_size, bias=bias)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_size, width, bias=bias)])
        self.norm_q = RMSNorm(heads * head_size)
        self.norm_k = RMSNorm(key_heads * head_size)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q [B, H, S, E], k and v [B, K, S, E]."""
        q, k, v = projected(self, x, "to_q", "to_k", "to_v")
        size = self.head_size
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size)

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return split_heads(self.norm_q(self.to_q(x)), self.head_size)

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] to two of [B, K, S, E]."""
        k, v = projected(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_size), split_heads(v, self.head_size)


class ExpertBlock(nn.Module):
    """One block of the expert, opened at its self-attention."""

    def __init__(
        self, width: int, feed_forward: int, traits: Traits, *, text: bool, bias: bool
    ) -> None:
        super().__init__()
        shape = traits.heads, traits.key_heads, traits.head_size
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = Attention(width, *shape, bias=bias)
        self.norm2 = LayerNorm(width, eps=1e-6) if text else None
        self.attn2 = Attention(width, *shape, bias=bias) if text else None
        self.ffn = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        table = self.scale_shift_table.float().unsqueeze(2) + cond.modulation  # [B, 6, S, D]
        shift, scale, gate, *rest = table.unbind(1)
        y = modulated(x, shift, scale)
        q, k, v = self.attn1.enter(y)
        if cond.turn is not None:
            q, k = rotate_pairs(q, *cond.turn), rotate_pairs(k, *cond.turn)
        return QKV(q, k, v), (x, gate, *rest)

    def told(self, cond: Conditioning) -> KV | None:
        """Keys and values of the words, if the block reads them."""
        attn2, words = self.attn2, cond.words
        if attn2 is None or words is None:
            return None
        return told(cond.text, attn2, words)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Conditioning, told: KV | None = None
    ) -> Tensor:
        told = self.told(cond) if told is None else told
        x, gate, shift, scale, gate_ffn = rest
        x = (x.float() + gate * self.attn1.to_out[0](attended)).to(x.dtype)
        if self.attn2 is not None and self.norm2 is not None and told is not None:
            heard = sdpa(self.attn2.query(self.norm2(x)), *told)
            x = x + self.attn2.to_out[0](heard.transpose(1, 2).flatten(2))
        y = self.ffn(modulated(x, shift, scale))
        return (x.float() + gate_ffn * y).to(x.dtype)


class ConditionEmbedder(nn.Module):
    """The embedders of noise level and words, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.time_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        gelu = nn.GELU("tanh")
        self.text_embedder = Embedder(text_width, width, gelu) if text_width else None

    def modulation(self, level: Tensor) -> Tensor:
        """Embedded levels [B, G, D] to shifts, scales and gates of all blocks [B, 6, G, D]."""
        y = nn.functional.silu(level).to(self.time_proj.weight.dtype)
        return self.time_proj(y).float().unflatten(-1, (6, -1)).transpose(1, 2)

    def words(self, text: Text) -> Tensor | None:
        """The instruction at the expert's width [B, L, D], if the expert reads it."""
        embedder = self.text_embedder
        if embedder is None:
            return None
        dtype = self.time_proj.weight.dtype
        return text.lasting.once((id(self), "words"), lambda: embedder(text.tokens.to(dtype)))


def embedded(embedder: nn.Module, sigma: Tensor) -> Tensor:
    """Noise levels [B, G] as [B, G, D] float32."""
    return embedder(sinusoid(1000 * sigma.float(), LEVELS)).float()


def spread(x: Tensor, counts: list[int], axis: int) -> Tensor:
    """Each of G entries of an axis for so many tokens; one entry alone stays one."""
    if x.shape[axis] == 1:
        return x
    parts = [
        y.expand(*(count if i == axis else -1 for i in range(x.ndim)))
        for y, count in zip(x.split(1, axis), counts, strict=True)
    ]
    return torch.cat(parts, axis)
