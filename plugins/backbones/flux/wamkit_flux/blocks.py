"""What the blocks of both FLUX generations share: lanes, joint attention and the double block.

    double   words  --norm, shift, scale--> q k v --+               +--> * gate + --> feed-forward
             frames --norm, shift, scale--> q k v --+--(attention)--+--> * gate + --> feed-forward
    single   both   --norm, shift, scale--> q k v ------(attention)--+
                                       `--> feed-forward ------------+--> * gate + -->

A stream is the words, if they are in it, and then the frames; each of the two is a lane. A lane has
weights of its own in a double block; in a single block both have the same. Shift, scale and gate
belong to the words as a whole and to each frame; they, norms, rotary positions and residuals are
computed in float32. Letters as in `wamkit.interfaces.types`, and n tokens in a frame, so that S = L
+ T n; a token that belongs to no frame is one by itself. The width D need not be H * E: an action
expert is narrower than what it attends with, and no words pass through it.

Source: `src/flux2/model.py` in github.com/black-forest-labs/flux2 (Apache-2.0), under the parameter
names of diffusers' `Flux2Transformer2DModel` and `FluxTransformer2DModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import own_rows

from wamkit.acceleration.fused_linear import projected
from wamkit.config.parts import Traits
from wamkit.engine.attention import QKV
from wamkit.engine.layers import RMSNorm, modulated, rotate_pairs, split_heads

Lanes = list[Tensor]
"""One tensor a lane: [B, 1, ...] of the words, if they are in the stream, and [B, T, ...]."""


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    words: int  # tokens of text at the head of the stream (L); 0 if their keys are cached
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame
    level: Lanes  # [B, 1 or T, D] float32, of each noise level; empty where it was looked up
    double: Lanes  # [B, 1 or T, 6, D] float32 modulation of all double blocks; in FLUX.1 of each,
    # as `wamkit.acceleration.memo.stacked`, where levels were looked up, and else empty
    single: Lanes  # [B, 1 or T, 3, D] the same of all single blocks
    owners: tuple[Tensor | None, ...]  # whose row is whose where each block has its own
    out: Tensor | None  # [B, T, 2 D] float32 of the last norm, where levels were looked up
    cos: Tensor  # [S, E / 2] float32 rotary positions
    sin: Tensor  # [S, E / 2]


def lanes_of(x: Tensor, cond: Conditioning) -> Lanes:
    """[B, S, D] to [B, 1, L, D] of the words, if there are any, and [B, T, n, D] of the frames."""
    frames = x[:, cond.words :].unflatten(1, (cond.shape[0], -1))
    return [x[:, None, : cond.words], frames] if cond.words else [frames]


def joined(lanes: Lanes) -> Tensor:
    """The reverse of `lanes_of`."""
    return torch.cat([lane.flatten(1, 2) for lane in lanes], 1)


def tables(modulation: Lanes) -> list[tuple[Tensor, ...]]:
    """Modulation [B, g, m, D] of each lane as m tensors [B, g, 1, D]."""
    return [lane.unsqueeze(3).unbind(2) for lane in modulation]


def added(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y in float32; the dtype of x out."""
    return (x.float() + gate * y).to(x.dtype)


def own_lanes(block: nn.Module, found: Lanes, cond: Conditioning) -> Lanes:
    """What was looked up of all blocks, for one: [B, 1 or T, m, D] of each lane."""
    owners = zip(found, cond.owners, strict=True)
    return [own_rows(block, lane, owner) for lane, owner in owners]


def modulation(linear: nn.Linear, level: Tensor, count: int) -> Tensor:
    """`count` shifts, scales and gates for noise levels [B, g, D]: [B, g, count, D] float32."""
    return linear(F.silu(level).to(linear.weight.dtype)).float().unflatten(-1, (count, -1))


@dataclass(frozen=True)
class Sizes:
    """What all blocks of a stack have in common."""

    width: int  # D
    heads: int  # H
    head_size: int  # E
    hidden: int  # width inside a feed-forward
    words: bool = True  # whether words pass through the double blocks

    @staticmethod
    def of(traits: Traits) -> Sizes:
        """Those of a backbone."""
        return Sizes(traits.width, traits.heads, traits.head_size, traits.feed_forward)

    @property
    def inner(self) -> int:
        """Numbers in all heads (H * E)."""
        return self.heads * self.head_size


class JointAttention(nn.Module):
    """Projections of the two lanes of a double block, under diffusers' names."""

    together = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))

    def __init__(self, sizes: Sizes, *, bias: bool) -> None:
        super().__init__()
        self.head_size = size = sizes.head_size

        def enter() -> nn.Linear:
            return nn.Linear(sizes.width, sizes.inner, bias=bias)

        def leave() -> nn.Linear:
            return nn.Linear(sizes.inner, sizes.width, bias=bias)

        self.to_q, self.to_k, self.to_v = enter(), enter(), enter()
        self.to_out = nn.ModuleList([leave()])
        self.norm_q, self.norm_k = RMSNorm(size), RMSNorm(size)
        if sizes.words:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = enter(), enter(), enter()
            self.to_add_out = leave()
            self.norm_added_q, self.norm_added_k = RMSNorm(size), RMSNorm(size)

    def project(self, lanes: Lanes, cond: Conditioning) -> QKV:
        """Lanes [B, g, n, D] to q, k, v [B, H, S, E] of the whole stream, with positions."""
        *words, frames = [lane.flatten(1, 2) for lane in lanes]
        rows = projected(self, frames, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_size) for row in rows)
        q, k = self.norm_q(q), self.norm_k(k)
        for x in words:
            rows = projected(self, x, "add_q_proj", "add_k_proj", "add_v_proj")
            first_q, first_k, first_v = (split_heads(row, self.head_size) for row in rows)
            q = torch.cat([self.norm_added_q(first_q), q], 2)
            k = torch.cat([self.norm_added_k(first_k), k], 2)
            v = torch.cat([first_v, v], 2)
        return positioned(q, k, v, cond)

    def leave(self, attended: Tensor, cond: Conditioning) -> Lanes:
        """[B, S, H * E] to lanes [B, g, n, D]."""
        *words, frames = lanes_of(attended, cond)
        return [*(self.to_add_out(x) for x in words), self.to_out[0](frames)]


def positioned(q: Tensor, k: Tensor, v: Tensor, cond: Conditioning) -> QKV:
    """q and k turned to their places."""
    return QKV(rotate_pairs(q, cond.cos, cond.sin), rotate_pairs(k, cond.cos, cond.sin), v)


class DoubleBlock(nn.Module):
    """Attention across the lanes, then a feed-forward for each; FLUX.2's, without modulation."""

    def __init__(
        self, sizes: Sizes, feed_forward: Callable[[int, int], nn.Module], *, bias: bool
    ) -> None:
        super().__init__()
        self.attn = JointAttention(sizes, bias=bias)
        self.ff = feed_forward(sizes.width, sizes.hidden)
        if sizes.words:
            self.ff_context = feed_forward(sizes.width, sizes.hidden)

    def modulation(self, cond: Conditioning) -> Lanes:
        """Shift, scale and gate of the attention, then of the feed-forward, for each lane."""
        return cond.double

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        lanes, mods = lanes_of(x, cond), tables(self.modulation(cond))
        normal = [modulated(x, m[0], m[1]) for x, m in zip(lanes, mods, strict=True)]
        return self.attn.project(normal, cond), (lanes, mods)

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        lanes, mods = rest
        feeds = [self.ff] if len(lanes) == 1 else [self.ff_context, self.ff]
        out = []
        for x, y, mod, feed in zip(
            lanes, self.attn.leave(attended, cond), mods, feeds, strict=True
        ):
            _, _, gate, shift, scale, gate_feed = mod
            x = added(x, gate, y)
            out.append(added(x, gate_feed, feed(modulated(x, shift, scale))))
        return joined(out)


class SingleBlock(nn.Module, ABC):
    """Attention and feed-forward side by side, from one norm into one residual."""

    @abstractmethod
    def modulation(self, cond: Conditioning) -> Lanes:
        """Shift, scale and gate for each lane, [B, g, 3, D]."""

    @abstractmethod
    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Normal tokens [B, S, D] to normalized q, k and v [B, H, S, E], and the hidden rest."""

    @abstractmethod
    def leave(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """[B, S, H * E] and what `enter` kept to [B, S, D]."""

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        lanes, mods = lanes_of(x, cond), tables(self.modulation(cond))
        normal = [modulated(x, m[0], m[1]) for x, m in zip(lanes, mods, strict=True)]
        q, k, v, hidden = self.enter(joined(normal))
        return positioned(q, k, v, cond), (lanes, mods, hidden)

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        lanes, mods, hidden = rest
        new = lanes_of(self.leave(attended, hidden), cond)
        return joined([added(x, m[2], y) for x, m, y in zip(lanes, mods, new, strict=True)])
