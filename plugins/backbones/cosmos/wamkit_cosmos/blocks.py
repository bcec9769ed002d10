"""One block of Cosmos' transformer, opened at its self-attention, and what it is conditioned on.

    x --norm, shift, scale--> q k v --(attention)--> * gate + --> x
    x --norm, shift, scale--> q --(attention to the words)--> * gate + --> x
    x --norm, shift, scale--> feed-forward --> * gate + --> x

Shift, scale and gate belong to a frame; all three sublayers have their own, of low rank, on top of
one that all blocks share. They are applied in float32, as are norms and rotary positions, and
residuals are added in it. There is no bias anywhere. Letters as in `wamkit.interfaces.types`, and n
tokens in a frame, so that S = T n; a token that belongs to no frame is one by itself. The width D
need not be H * E: an action expert is narrower than what it attends with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import own_rows

from wamkit.acceleration.fused_linear import projected
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import RMSNorm, modulated, split_heads
from wamkit.interfaces.text import told
from wamkit.interfaces.types import Text

if TYPE_CHECKING:
    from . import Cosmos


@dataclass(frozen=True)
class Level:
    """Noise levels of frames, embedded, or what was made of them already; float32 but `own`."""

    shared: Tensor | None = None  # [B, T, 3 D] what all layers share of shift, scale and gate
    own: Tensor | None = None  # [B, T, D] after SiLU, what a layer's own part of them is made of
    rows: Tensor | None = (
        None  # [B, G, blocks, 9 D] of all blocks, as `wamkit.acceleration.memo.stacked`
    )
    owner: Tensor | None = None  # [T] whose row is whose
    out: Tensor | None = None  # [B, T, 2 D] of the norm on the way out


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    level: Level  # of each frame
    cos: Tensor  # [S, E / 2] float32 rotary positions
    sin: Tensor  # [S, E / 2]
    words: Tensor  # [B, L, text width]
    text: Text  # its mask and a place for what is computed once from it
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame


class Modulation(nn.Module):
    """Noise level to `parts` of shift, scale, gate, through a narrow layer (adaLN-LoRA)."""

    def __init__(self, width: int, rank: int, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.linear_1 = nn.Linear(width, rank, bias=False)
        self.linear_2 = nn.Linear(rank, parts * width, bias=False)

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        """What `Level` has of noise levels to all parts [B, T, parts * D] float32."""
        found = self.linear_2(self.linear_1(own)).float()
        return found + shared[..., : found.shape[-1]]


class Attention(nn.Module):
    """Projections under diffusers' names; q and k are normalized head by head."""

    together = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(self, width: int, inputs: int, sizes: Cosmos) -> None:
        super().__init__()
        self.head_size, inner = sizes.head_size, sizes.heads * sizes.head_size
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k, self.to_v = (nn.Linear(inputs, inner, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(inner, width, bias=False)])
        self.norm_q, self.norm_k = (RMSNorm(sizes.head_size, sizes.qk_norm_eps) for _ in range(2))

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E]."""
        rows = projected(self, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_size) for row in rows)
        return self.norm_q(q), self.norm_k(k), v

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return self.norm_q(split_heads(self.to_q(x), self.head_size))

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, inputs] to two of [B, H, S, E]."""
        k, v = projected(self, x, "to_k", "to_v")
        return self.norm_k(split_heads(k, self.head_size)), split_heads(v, self.head_size)

    def leave(self, attended: Tensor) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return self.to_out[0](attended)


class GELU(nn.Module):
    """Linear and exact GELU, under diffusers' name `proj`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., hidden]."""
        return F.gelu(self.proj(x))


class FeedForward(nn.Module):
    """Linear, GELU, linear, without bias, under diffusers' names `net.0.proj` and `net.2`."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        last = nn.Linear(hidden, width, bias=False)
        self.net = nn.ModuleList([GELU(width, hidden), nn.Identity(), last])

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        return self.net[2](self.net[0](x))


class CosmosBlock(nn.Module):
    """Self-attention, cross-attention to the words, feed-forward."""

    def __init__(self, width: int, feed_forward: int, sizes: Cosmos) -> None:
        super().__init__()
        rank = sizes.modulation_rank
        self.norm1, self.norm2, self.norm3 = (Modulation(width, rank, 3) for _ in range(3))
        self.attn1 = Attention(width, width, sizes)
        self.attn2 = Attention(width, sizes.text_width, sizes)
        self.ff = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        shift, scale, gate, *rest = self._modulation(cond.level).unsqueeze(2).chunk(9, -1)
        y = modulated(by_frame(x, cond), shift, scale).flatten(1, 2)
        q, k, v = self.attn1.enter(y)
        turn = cond.cos, cond.sin
        return QKV(rotate_halves(q, *turn), rotate_halves(k, *turn), v), (x, gate, *rest)

    def modulation(self, shared: Tensor, own: Tensor) -> Tensor:
        """Shifts, scales and gates of all three sublayers [B, T, 9 D] float32."""
        norms = self.norm1, self.norm2, self.norm3
        return torch.cat([norm(shared, own) for norm in norms], -1)

    def _modulation(self, level: Level) -> Tensor:
        """The same of levels that may have been looked up."""
        if level.rows is not None:
            return own_rows(self, level.rows, level.owner)
        assert level.shared is not None and level.own is not None
        return self.modulation(level.shared, level.own)

    def told(self, cond: Conditioning) -> KV:
        """Keys and values of the words."""
        return told(cond.text, self.attn2, cond.words)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Conditioning, told: KV | None = None
    ) -> Tensor:
        told = self.told(cond) if told is None else told
        x, gate, *rest = rest
        x = added(x, gate, self.attn1.leave(attended), cond)
        shift, scale, gate = rest[:3]
        y = modulated(by_frame(x, cond), shift, scale).flatten(1, 2)
        x = added(x, gate, self._listen(y, told), cond)
        shift, scale, gate = rest[3:]
        y = modulated(by_frame(x, cond), shift, scale).flatten(1, 2)
        return added(x, gate, self.ff(y), cond)

    def _listen(self, x: Tensor, told: KV) -> Tensor:
        """What the tokens x [B, S, D] take from the instruction, [B, S, D]."""
        heard = sdpa(self.attn2.query(x), *told)
        return self.attn2.leave(heard.transpose(1, 2).flatten(2))


def by_frame(x: Tensor, cond: Conditioning) -> Tensor:
    """[B, S, D] to [B, T, n, D]."""
    return x.unflatten(1, (cond.shape[0], -1))


def added(x: Tensor, gate: Tensor, y: Tensor, cond: Conditioning) -> Tensor:
    """x + gate * y in float32, x and y [B, S, D], gate [B, T, 1, D]; the dtype of x out."""
    total = by_frame(x, cond).float() + gate * by_frame(y, cond)
    return total.flatten(1, 2).to(x.dtype)


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, E], its numbers i and i + E / 2 turned by angles of cos, sin [S, E / 2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1).to(x.dtype)
