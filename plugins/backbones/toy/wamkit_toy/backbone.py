"""The smallest honest backbone: patches in, blocks opened at self-attention, velocity out.

Read this first. A backbone is two methods a block and two for the ends; everything else (who sees
whom, what is cached, how an action head joins) is wamkit's business.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.attention import QKV, sdpa
from wamkit.layers import (
    Embedder,
    FeedForward,
    modulated,
    rotary_angles,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.parts import Traits
from wamkit.types import Frames, Segment, Text

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    time: Tensor  # [B, S, D] embedding of each token's noise level
    cos: Tensor  # [S, E / 2] rotary positions
    sin: Tensor  # [S, E / 2]
    text: Tensor  # [B, L, D]
    mask: Tensor | None  # [B, L]
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame


class ToyBlock(nn.Module):
    """Self-attention, text cross-attention, feed-forward; each scaled by the noise level.

    The width D need not be H * E: an action expert is narrower than what it attends with.
    """

    def __init__(self, width: int, heads: int, head_size: int, feed_forward: int) -> None:
        super().__init__()
        self.head_size, inner = head_size, heads * head_size
        self.modulation = nn.Linear(width, 6 * width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.Linear(inner, width)
        self.text_q, self.text_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.text_kv = nn.Linear(width, 2 * inner)
        self.ffn = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        shift, scale, gate, *rest = self.modulation(F.silu(cond.time)).chunk(6, -1)
        y = modulated(x, shift, scale)
        q, k, v = (split_heads(f(y), self.head_size) for f in (self.to_q, self.to_k, self.to_v))
        turn = cond.cos, cond.sin
        return QKV(rotate_pairs(q, *turn), rotate_pairs(k, *turn), v), (x, gate, *rest)

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        x, gate, shift, scale, gate_ffn = rest
        x = x + gate * self.to_out(attended)
        k, v = self.text_kv(cond.text).chunk(2, -1)
        q, k, v = (split_heads(y, self.head_size) for y in (self.text_q(x), k, v))
        x = x + self.text_out(sdpa(q, k, v, cond.mask).transpose(1, 2).flatten(2))
        return x + gate_ffn * self.ffn(modulated(x, shift, scale))


class ToyStack(nn.Module):
    """Blocks and what they are conditioned on; by itself an action expert of any width."""

    def __init__(self, traits: Traits, width: int, feed_forward: int) -> None:
        super().__init__()
        self.traits, self.width = traits, width
        self.time = Embedder(width, width, nn.SiLU())
        self.text = nn.Linear(traits.text_width, width)
        self.blocks = nn.ModuleList(
            ToyBlock(width, traits.heads, traits.head_size, feed_forward)
            for _ in range(traits.depth)
        )

    def place(self, sigma: Tensor, at: Tensor, text: Text) -> Conditioning:
        """As `VideoBackbone.place`; every token has a level of its own."""
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        return self._condition(sigma, turned, text, (sigma.shape[1], 1, 1))

    def _condition(
        self, sigma: Tensor, turned: Turn, text: Text, shape: tuple[int, int, int]
    ) -> Conditioning:
        """Noise levels sigma [B, T] of frames, positions and words, for the blocks."""
        dtype, (_, rows, columns) = self.text.weight.dtype, shape
        time = self.time(sinusoid(1000 * sigma, self.width).to(dtype))
        time = time.repeat_interleave(rows * columns, 1)
        return Conditioning(time, *turned, self.text(text.tokens.to(dtype)), text.mask, shape)

    def _turn(self, at: Tensor) -> Turn:
        """The time, row and column of each token `at` [S, 3] as rotary positions."""
        pairs = self.traits.head_size // 2
        sizes = [2 * (pairs - 2 * (pairs // 3)), 2 * (pairs // 3), 2 * (pairs // 3)]
        angles = torch.cat(
            [rotary_angles(p, n, theta=100) for p, n in zip(at.unbind(-1), sizes, strict=True)], -1
        )
        return angles.cos().float(), angles.sin().float()


class ToyBackbone(ToyStack):
    """`VideoBackbone` of any size, with random weights."""

    attend = staticmethod(sdpa)
    sinusoid_axes = ((r"^time\.linear_1\.weight$", 1),)  # reads a sinusoid of the model's width

    def __init__(self, traits: Traits) -> None:
        super().__init__(traits, traits.width, traits.feed_forward)
        patch = traits.latent_channels * traits.patch[1] * traits.patch[2]
        self.enter, self.leave = nn.Linear(patch, traits.width), nn.Linear(traits.width, patch)

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        p = self.traits.patch[1]
        z = video.z.to(self.enter.weight.dtype)
        z = z.unflatten(4, (-1, p)).unflatten(3, (-1, p))  # [B, C, T, r, p, c, p]
        _, _, frames, rows, _, columns, _ = z.shape
        x = self.enter(z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)).flatten(1, 3)  # [B, S, D]
        turned = video.memo.once(
            (id(self), "turn"), lambda: self._turn(_places(video, rows, columns))
        )
        cond = self._condition(video.sigma, turned, text, (frames, rows, columns))
        return x, video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        p, (frames, rows, columns) = self.traits.patch[1], cond.shape
        z = self.leave(F.layer_norm(x, x.shape[-1:])).unflatten(1, (frames, rows, columns))
        z = z.unflatten(-1, (-1, p, p)).permute(0, 4, 1, 2, 5, 3, 6)  # [B, C, T, r, p, c, p]
        return z.flatten(5, 6).flatten(3, 4)


def _places(video: Frames, rows: int, columns: int) -> Tensor:
    """Time, row and column of every token [S, 3]."""
    device = video.z.device
    axes = (video.times.to(device), *(torch.arange(n, device=device) for n in (rows, columns)))
    grid = torch.meshgrid(*(axis.float() for axis in axes), indexing="ij")
    return torch.stack(grid, -1).flatten(0, 2)
