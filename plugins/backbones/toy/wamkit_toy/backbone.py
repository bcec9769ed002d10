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


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    time: Tensor  # [B, S, D] embedding of each token's noise level
    cos: Tensor  # [S, E / 2] rotary positions
    sin: Tensor  # [S, E / 2]
    text: Tensor  # [B, L, D]
    mask: Tensor | None  # [B, L]
    shape: tuple[int, int, int]  # frames, token rows, token columns


class ToyBlock(nn.Module):
    """Self-attention, text cross-attention, feed-forward; each scaled by the noise level."""

    def __init__(self, width: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.modulation = nn.Linear(width, 6 * width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.Linear(width, width)
        self.text_q, self.text_out = nn.Linear(width, width), nn.Linear(width, width)
        self.text_kv = nn.Linear(width, 2 * width)
        self.ffn = FeedForward(width, 4 * width)

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


class ToyBackbone(nn.Module):
    """`VideoBackbone` of any size, with random weights."""

    attend = staticmethod(sdpa)

    def __init__(self, traits: Traits) -> None:
        super().__init__()
        self.traits = traits
        patch = traits.latent_channels * traits.patch[1] * traits.patch[2]
        self.enter, self.leave = nn.Linear(patch, traits.width), nn.Linear(traits.width, patch)
        self.time = Embedder(traits.width, traits.width, nn.SiLU())
        self.text = nn.Linear(traits.text_width, traits.width)
        self.blocks = nn.ModuleList(
            ToyBlock(traits.width, traits.head_size) for _ in range(traits.depth)
        )

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        p, dtype = self.traits.patch[1], self.enter.weight.dtype
        z = video.z.to(dtype).unflatten(4, (-1, p)).unflatten(3, (-1, p))  # [B, C, T, r, p, c, p]
        _, _, frames, rows, _, columns, _ = z.shape
        x = self.enter(z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)).flatten(1, 3)  # [B, S, D]
        level = sinusoid(1000 * video.sigma, self.traits.width).to(dtype)
        time = self.time(level).repeat_interleave(rows * columns, 1)
        cos, sin = video.memo.once((id(self), "turn"), lambda: self._turn(video, rows, columns))
        words = self.text(text.tokens.to(dtype))
        shape = (frames, rows, columns)
        cond = Conditioning(time, cos, sin, words, text.mask, shape)
        return x, video.segments(rows * columns), cond

    def _turn(self, video: Frames, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] of each token's place on the grid of time, row and column."""
        axes = [video.times.to(video.z.device)]
        axes += [torch.arange(float(n), device=video.z.device) for n in (rows, columns)]
        places = torch.meshgrid(*axes, indexing="ij")
        pairs = self.traits.head_size // 2
        sizes = [2 * (pairs - 2 * (pairs // 3)), 2 * (pairs // 3), 2 * (pairs // 3)]
        angles = torch.cat(
            [rotary_angles(p.flatten(), n, theta=100) for p, n in zip(places, sizes, strict=True)],
            -1,
        )
        return angles.cos().float(), angles.sin().float()

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        p, (frames, rows, columns) = self.traits.patch[1], cond.shape
        z = self.leave(F.layer_norm(x, x.shape[-1:])).unflatten(1, (frames, rows, columns))
        z = z.unflatten(-1, (-1, p, p)).permute(0, 4, 1, 2, 5, 3, 6)  # [B, C, T, r, p, c, p]
        return z.flatten(5, 6).flatten(3, 4)
