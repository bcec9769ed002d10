"""The blocks of OmniGen2, opened at their attention, and what they are conditioned on.

    x --norm, scale--> q k v --(attention)--norm--> * gate + --> x
    x --norm, scale--> SwiGLU               --norm--> * gate + --> x

There is a norm before and a norm after each half. Scales and gates (through tanh) belong to a
frame, or to all words, and are computed in float32, as are norms and rotary positions; residuals
are added in float32. Letters as in `wamkit.interfaces.types`; G groups of tokens each have a noise
level. The width D need not be H * E: an action expert is narrower than what it attends with.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import own_rows, spread

from wamkit.acceleration.fused_linear import projected
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.layers import RMSNorm, rotary_angles, rotate_pairs, split_heads

EPS = 1e-5


@dataclass(frozen=True)
class Places:
    """Where tokens are, all that a block without noise levels needs besides them."""

    cos: Tensor  # [B or 1, 1, S, E / 2] float32 rotary positions
    sin: Tensor  # [B or 1, 1, S, E / 2]


@dataclass(frozen=True)
class Conditioning(Places):
    """What the other blocks need besides tokens; nobody else looks inside."""

    level: Tensor | None  # [B, G, width of levels] SiLU of the embedded level of each group
    rows: (
        Tensor | None
    )  # [B, G, blocks, 4 D], as `wamkit.acceleration.memo.stacked`, where it is looked up
    owner: Tensor | None  # [S] the group of each token; None if each is one, or all are


@dataclass(frozen=True)
class Joined(Conditioning):
    """Words, if they are not cached, and frames in one sequence: the first group is the words."""

    words: int  # L, the first tokens of the stream; 0 if they are cached
    shape: tuple[int, int, int]  # frames, token rows, token columns
    scale: Tensor | None  # [B, T, D] float32 of the way out, where levels are looked up


class Heads(NamedTuple):
    """How attention is divided."""

    queries: int  # H
    keys: int  # K
    size: int  # E


class Attention(nn.Module):
    """Projections without biases; q and k are normalized in each head."""

    together = (("to_q", "to_k", "to_v"),)

    def __init__(self, width: int, shape: Heads) -> None:
        super().__init__()
        self.head_size = size = shape.size
        self.to_q = nn.Linear(width, shape.queries * size, bias=False)
        self.to_k, self.to_v = (nn.Linear(width, shape.keys * size, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(shape.queries * size, width, bias=False)])
        self.norm_q, self.norm_k = RMSNorm(size, EPS), RMSNorm(size, EPS)

    def project(self, x: Tensor, cond: Places) -> QKV:
        """[B, S, D] to what attention needs."""
        rows = projected(self, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_size) for row in rows)
        q, k = self.norm_q(q), self.norm_k(k)
        return QKV(rotate_pairs(q, cond.cos, cond.sin), rotate_pairs(k, cond.cos, cond.sin), v)


class SwiGLU(nn.Module):
    """Three linear layers without biases; the first, through SiLU, gates the third."""

    together = (("linear_1", "linear_3"),)

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1, self.linear_3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.linear_2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        gate, up = projected(self, x, "linear_1", "linear_3")
        return self.linear_2(F.silu(gate) * up)


class ContextBlock(nn.Module):
    """A block without noise levels; words pass it before they meet the images."""

    def __init__(self, width: int, shape: Heads, feed_forward: int) -> None:
        super().__init__()
        self.norm1: nn.Module = RMSNorm(width, EPS)
        self.attn = Attention(width, shape)
        self.norm2 = RMSNorm(width, EPS)
        self.ffn_norm1, self.ffn_norm2 = RMSNorm(width, EPS), RMSNorm(width, EPS)
        self.feed_forward = SwiGLU(width, feed_forward)

    def enter(self, x: Tensor, cond: Any) -> tuple[Tensor, tuple[Tensor | float, ...]]:
        """x [B, S, D] normalized, and three factors: gate, scale and gate of the feed-forward."""
        return self.norm1(x), (1.0, 1.0, 1.0)

    def project(self, x: Tensor, cond: Places) -> tuple[QKV, Any]:
        y, factors = self.enter(x, cond)
        return self.attn.project(y, cond), (x, *factors)

    def absorb(self, attended: Tensor, rest: Any, cond: Places) -> Tensor:
        x, gate, scale, gate_out = rest
        heard = self.attn.to_out[0](attended)
        x = (x.float() + gate * self.norm2(heard.float())).to(x.dtype)
        y = self.feed_forward((self.ffn_norm1(x.float()) * scale).to(x.dtype))
        return (x.float() + gate_out * self.ffn_norm2(y.float())).to(x.dtype)


class ModulatedNorm(nn.Module):
    """A norm, and the linear layer that turns noise levels into all four factors of a block."""

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(level_width, 4 * width)
        self.norm = RMSNorm(width, EPS)

    def forward(self, x: Tensor, four: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """x [B, S, D] normalized and scaled, and the factors [B, S, D] float32 of the rest.

        All are made of `four` [B, S, 4 D] float32, or [B, 1, 4 D].
        """
        scale, gate, scale_ffn, gate_ffn = four.chunk(4, -1)
        y = (self.norm(x.float()) * (1 + scale)).to(x.dtype)
        return y, (gate.tanh(), 1 + scale_ffn, gate_ffn.tanh())


class OmniGen2Block(ContextBlock):
    """A block whose norms and gates follow the noise level of each token's frame."""

    def __init__(self, width: int, shape: Heads, feed_forward: int, level_width: int) -> None:
        super().__init__(width, shape, feed_forward)
        self.norm1 = ModulatedNorm(width, level_width)

    def enter(self, x: Tensor, cond: Any) -> tuple[Tensor, tuple[Tensor | float, ...]]:
        table = self.modulation(cond.level) if cond.rows is None else own_rows(self, cond.rows)
        return self.norm1(x, spread(table, cond.owner))

    def modulation(self, level: Tensor) -> Tensor:
        """All four factors [B, G, 4 D] float32 of levels [B, G, width of levels]."""
        return self.norm1.linear(level).float()  # type: ignore[no-any-return, operator, union-attr]


def refine(blocks: Iterable[Any], x: Tensor, cond: Places, valid: Tensor | None = None) -> Tensor:
    """x [B, S, D] through blocks in which all of its tokens, and no others, see each other."""
    for block in blocks:
        qkv, rest = block.project(x, cond)
        heard = sdpa(qkv.q, qkv.k, qkv.v, valid)
        x = block.absorb(heard.transpose(1, 2).flatten(2), rest, cond)
    return x


def by_frame(x: Tensor, cond: Joined) -> Tensor:
    """The frames' tokens among [B, S, D], as [B, T, n, D]."""
    return x[:, cond.words :].unflatten(1, (cond.shape[0], -1))


def turn(*axes: tuple[Tensor, int]) -> tuple[Tensor, Tensor]:
    """cos and sin [B or 1, 1, S, E / 2] of places [B or 1, S] on axes of so many numbers each."""
    angle = torch.cat([rotary_angles(places, size) for places, size in axes], -1).unsqueeze(1)
    return angle.cos().float(), angle.sin().float()
