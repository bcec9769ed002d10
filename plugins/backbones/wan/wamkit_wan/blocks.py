"""One block of Wan's transformer, opened at its self-attention, and what it is conditioned on.

    x --norm, shift, scale--> q k v --(attention)--> * gate + --> x
    x --norm--> q --(attention to the words, and to the image)--> + --> x
    x --norm, shift, scale--> feed-forward --> * gate + --> x

Shift, scale and gate belong to a frame and are computed in float32, as are norms and rotary
positions; residuals are added in float32 where there is a gate. Letters as in
`wamkit.interfaces.types`, and n tokens in a frame, so that S = T n; a token that belongs to no
frame is one by itself. The width D need not be H * E: an action expert is narrower than what it
attends with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from wamkit.acceleration.fused_linear import alone, projected
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import (
    FeedForward,
    LayerNorm,
    RMSNorm,
    modulated,
    rotate_pairs,
    split_heads,
)
from wamkit.interfaces.text import told
from wamkit.interfaces.types import Text


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    modulation: Tensor  # [B, T, 6, D] float32, of each frame's noise level; B and T may be 1
    level: Tensor  # [B, T, D] float32, the same before its projection, for the way out
    cos: Tensor  # [S, E / 2] float32 rotary positions
    sin: Tensor  # [S, E / 2]
    words: Tensor  # [B, L, D]
    image: Tensor | None  # [B, L', D]
    text: Text  # its mask, and a place for what is computed once from it
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame


class Attention(nn.Module):
    """Projections under diffusers' names; q and k are normalized over all heads at once."""

    together = (("to_q", "to_k", "to_v"), ("to_k", "to_v"), ("add_k_proj", "add_v_proj"))

    def __init__(self, width: int, heads: int, head_size: int, *, image: bool = False) -> None:
        super().__init__()
        self.head_size, inner = head_size, heads * head_size
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(inner), RMSNorm(inner)
        if image:
            self.add_k_proj, self.add_v_proj = nn.Linear(width, inner), nn.Linear(width, inner)
            self.norm_added_k = RMSNorm(inner)

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E]."""
        q, k, v = projected(self, x, "to_q", "to_k", "to_v")
        size = self.head_size
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size)

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return split_heads(self.norm_q(self.to_q(x)), self.head_size)

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] to two of [B, H, S, E]."""
        k, v = projected(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_size), split_heads(v, self.head_size)

    def image_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same through the projections that only image tokens take."""
        k, v = projected(self, x, "add_k_proj", "add_v_proj")
        return split_heads(self.norm_added_k(k), self.head_size), split_heads(v, self.head_size)

    def leave(self, attended: Tensor) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return self.to_out[0](attended)


Told = tuple[KV, tuple[Tensor, ...] | None]
"""Keys and values of the words [B, H, L, E], their mask, and those of the picture, if any."""


class WanBlock(nn.Module):
    """Self-attention, cross-attention to text and image, feed-forward."""

    def __init__(
        self, width: int, heads: int, head_size: int, feed_forward: int, *, image: bool = False
    ) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = Attention(width, heads, head_size)
        self.norm2 = LayerNorm(width, eps=1e-6)
        self.attn2 = Attention(width, heads, head_size, image=image)
        self.ffn = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        table = self.scale_shift_table.float() + cond.modulation  # [B, T, 6, D]
        shift, scale, gate, *rest = table.unsqueeze(3).unbind(2)  # six of [B, T, 1, D]
        y = modulated(by_frame(x, cond), shift, scale).flatten(1, 2)
        q, k, v = self.attn1.enter(y)
        turn = cond.cos, cond.sin
        return QKV(rotate_pairs(q, *turn), rotate_pairs(k, *turn), v), (x, gate, *rest)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Conditioning, told: Told | None = None
    ) -> Tensor:
        told = self.told(cond) if told is None else told
        x, gate, shift, scale, gate_ffn = rest
        x = added(x, gate, self.attn1.leave(attended), cond)
        x = x + self._listen(self.norm2(x), told)
        y = self.ffn(modulated(by_frame(x, cond), shift, scale).flatten(1, 2))
        return added(x, gate_ffn, y, cond)

    def told(self, cond: Conditioning) -> Told:
        """Keys and values of words and picture, computed once for a text."""
        attn, words, image, text = self.attn2, cond.words, cond.image, cond.text
        said = told(text, attn, words)
        seen = None
        if image is not None:
            once = text.memo.once
            seen = once((id(self), "image"), lambda: alone(*attn.image_key_value(image)), of=image)
        return said, seen

    def _listen(self, x: Tensor, told: Told) -> Tensor:
        """What the tokens x [B, S, D] take from the instruction, [B, S, D]."""
        words, seen = told
        q = self.attn2.query(x)
        heard = sdpa(q, *words)
        if seen is not None:
            heard = heard + sdpa(q, *seen)
        return self.attn2.leave(heard.transpose(1, 2).flatten(2))


def by_frame(x: Tensor, cond: Conditioning) -> Tensor:
    """[B, S, D] to [B, T, n, D]."""
    return x.unflatten(1, (cond.shape[0], -1))


def added(x: Tensor, gate: Tensor, y: Tensor, cond: Conditioning) -> Tensor:
    """x + gate * y in float32, x and y [B, S, D], gate [B, T, 1, D]; the dtype of x out."""
    total = by_frame(x, cond).float() + gate * by_frame(y, cond)
    return total.flatten(1, 2).to(x.dtype)
