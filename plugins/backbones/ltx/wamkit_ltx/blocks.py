"""One block of LTX-Video's transformer, opened at its self-attention, and the pieces of LTX-2's.

    x --norm, shift, scale--> q k v --(attention)--> * gate + --> x
    x --> q --(attention to the words)--> + --> x              (no norm in front, and no gate)
    x --norm, shift, scale--> feed-forward --> * gate + --> x

Norms here have no weights, and divide by the root of the mean square. Shift, scale and gate belong
to a frame and are computed in float32. Letters as in `wamkit.interfaces.types`, and n tokens in a
frame, so that S = T n; a token that belongs to no frame is one by itself. The width D need not be H
* E: an action expert is narrower than what it attends with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.fused_linear import projected
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import FeedForward, RMSNorm, rotate_pairs, split_heads
from wamkit.interfaces.text import told
from wamkit.interfaces.types import Text


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    modulation: Tensor  # [B, T, 6 or 9, D] float32, of each frame's noise level; B, T may be 1
    level: Tensor  # [B, T, D] float32, the same before its projection, for the way out
    prompt: Tensor | None  # [B, T, 2, text width] float32, the same for words; LTX-2.3 alone
    cos: Tensor  # [H, S, E / 2] float32 rotary positions
    sin: Tensor  # [H, S, E / 2]
    words: Tensor  # [B, L, D], or [B, L, text width] in LTX-2.3
    text: Text  # its mask, and a place for what is computed once from it
    shape: tuple[int, int, int]  # frames, rows, columns; S, 1, 1 for tokens of no frame


class Attention(nn.Module):
    """Projections under diffusers' names; q and k are normalized over all heads at once.

    With `gated`, the token that asks multiplies what each head gives it by a number in (0, 2). What
    is asked has `inputs` numbers a token.
    """

    together = (
        ("to_gate_logits", "to_q", "to_k", "to_v"),
        ("to_q", "to_k", "to_v"),
        ("to_gate_logits", "to_q"),
        ("to_k", "to_v"),
    )

    def __init__(
        self,
        width: int,
        inputs: int,
        heads: int,
        head_size: int,
        eps: float,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.head_size, inner = head_size, heads * head_size
        self.to_q = nn.Linear(width, inner)
        self.to_k, self.to_v = nn.Linear(inputs, inner), nn.Linear(inputs, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(inner, eps), RMSNorm(inner, eps)
        self.to_gate_logits = nn.Linear(width, heads) if gated else None

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[B, S, D] to q, k, v [B, H, S, E], and what multiplies each head [B, S, H], or None."""
        names, size = ("to_q", "to_k", "to_v"), self.head_size
        if self.to_gate_logits is None:
            q, k, v = projected(self, x, *names)
            gates = None
        else:
            logits, q, k, v = projected(self, x, "to_gate_logits", *names)
            gates = 2 * logits.sigmoid()
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size), gates

    def query(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, S, D] to q [B, H, S, E], and what multiplies each head [B, S, H], or None."""
        if self.to_gate_logits is None:
            return split_heads(self.norm_q(self.to_q(x)), self.head_size), None
        logits, q = projected(self, x, "to_gate_logits", "to_q")
        return split_heads(self.norm_q(q), self.head_size), 2 * logits.sigmoid()

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, inputs] to two of [B, H, S, E]."""
        k, v = projected(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_size), split_heads(v, self.head_size)

    def leave(self, attended: Tensor, gates: Tensor | None) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        if gates is not None:
            heads = attended.unflatten(-1, (-1, self.head_size)) * gates.unsqueeze(-1)
            attended = heads.flatten(-2)
        return self.to_out[0](attended)


class LTXBlock(nn.Module):
    """Self-attention, cross-attention to the words, feed-forward."""

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = Attention(width, width, heads, head_size, 1e-5)
        self.attn2 = Attention(width, width, heads, head_size, 1e-5)
        self.ff = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        shift, scale, gate, *rest = modulation(self.scale_shift_table, cond.modulation)
        y = rms_modulated(x, shift, scale, cond)
        q, k, v, _ = self.attn1.enter(y)
        turn = cond.cos, cond.sin
        return QKV(rotate_pairs(q, *turn), rotate_pairs(k, *turn), v), (x, gate, *rest)

    def told(self, cond: Conditioning) -> KV:
        """What the words say."""
        return said(self.attn2, cond)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Conditioning, told: KV | None = None
    ) -> Tensor:
        words = self.told(cond) if told is None else told
        x, gate, shift, scale, gate_ff = rest
        x = added(x, gate, self.attn1.leave(attended, None), cond)
        x = x + listened(self.attn2, x, words)
        return added(x, gate_ff, self.ff(rms_modulated(x, shift, scale, cond)), cond)


def said(attn: Attention, cond: Conditioning) -> KV:
    """What the words say through `attn`."""
    return told(cond.text, attn, cond.words)


def listened(attn: Attention, x: Tensor, words: KV) -> Tensor:
    """What the tokens x [B, S, D] take from the words through `attn`, [B, S, D]."""
    q, gates = attn.query(x)
    return attn.leave(sdpa(q, *words).transpose(1, 2).flatten(2), gates)


def modulation(table: Tensor, levels: Tensor) -> tuple[Tensor, ...]:
    """A block's rows [R, D] and those of the noise levels [B, T, R, D]: R of [B, T, 1, D]."""
    return (table.float() + levels).unsqueeze(3).unbind(2)


def rms_modulated(x: Tensor, shift: Tensor, scale: Tensor, cond: Conditioning) -> Tensor:
    """RMS norm of x [B, S, D] without weights, then scaled and shifted, in float32."""
    normal = F.rms_norm(by_frame(x, cond).float(), x.shape[-1:], eps=1e-6)
    return (normal * (1 + scale) + shift).flatten(1, 2).to(x.dtype)


def by_frame(x: Tensor, cond: Conditioning) -> Tensor:
    """[B, S, D] to [B, T, n, D]."""
    return x.unflatten(1, (cond.shape[0], -1))


def added(x: Tensor, gate: Tensor, y: Tensor, cond: Conditioning) -> Tensor:
    """x + gate * y in float32, x and y [B, S, D], gate [B, T, 1, D]; the dtype of x out."""
    total = by_frame(x, cond).float() + gate * by_frame(y, cond)
    return total.flatten(1, 2).to(x.dtype)
