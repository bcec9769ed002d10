"""The smallest honest backbone: patches in, blocks opened at self-attention, velocity out.

Read this first. A backbone is two methods a block and two for the ends; everything else (who sees
whom, what is cached, how an action head joins) is wamkit's business.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.fused_linear import projected
from wamkit.acceleration.memo import Memo, Rungs, own_rows, stacked
from wamkit.config.parts import Traits
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import (
    Embedder,
    FeedForward,
    modulated,
    rotary_angles,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.interfaces.text import told
from wamkit.interfaces.types import Frames, Segment, Text

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


LEAST = 0.05
"""The noise level below which a prediction of data is taken as if it were made there."""


@dataclass(frozen=True)
class Level:
    """Noise levels as blocks want them: embedded, or what all blocks made of them already."""

    time: Tensor | None = None  # [B, T, D]
    rows: Tensor | None = None  # [B, G, blocks, 6 D], as `wamkit.acceleration.memo.stacked`
    owner: Tensor | None = None  # [T] whose row is whose


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    level: Level  # of each frame
    cos: Tensor  # [S, E / 2] rotary positions
    sin: Tensor  # [S, E / 2]
    words: Tensor  # [B, L, D]
    text: Text  # its mask, and a place for what is computed once from it
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame
    noisy: tuple[Tensor, Tensor] | None = None  # z and sigma, where data is what is predicted


class ToyBlock(nn.Module):
    """Self-attention, text cross-attention, feed-forward; each scaled by a frame's noise level.

    The width D need not be H * E: an action expert is narrower than what it attends with.
    """

    together = (("to_q", "to_k", "to_v"),)  # one matrix product where gradients are off

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
        table = self._modulation(cond.level).unsqueeze(2)  # [B, T, 1, 6 D]
        shift, scale, gate, *rest = table.chunk(6, -1)
        y = modulated(by_frame(x, cond), shift, scale).flatten(1, 2)
        q, k, v = (
            split_heads(z, self.head_size) for z in projected(self, y, "to_q", "to_k", "to_v")
        )
        turn = cond.cos, cond.sin
        return QKV(rotate_pairs(q, *turn), rotate_pairs(k, *turn), v), (x, gate, *rest)

    def _modulation(self, level: Level) -> Tensor:
        """Shifts, scales and gates [B, T, 6 D]."""
        if level.rows is not None:
            return own_rows(self, level.rows, level.owner)
        return self.modulation(level.time)

    def told(self, cond: Conditioning) -> KV:
        """Keys and values of the words."""
        return told(cond.text, self, cond.words)

    def key_value(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] to keys and values, two of [B, H, L, E]."""
        k, v = self.text_kv(words).chunk(2, -1)
        return split_heads(k, self.head_size), split_heads(v, self.head_size)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Conditioning, told: KV | None = None
    ) -> Tensor:
        told = self.told(cond) if told is None else told
        x, gate, shift, scale, gate_ffn = rest
        x = x + (gate * by_frame(self.to_out(attended), cond)).flatten(1, 2)
        heard = sdpa(split_heads(self.text_q(x), self.head_size), *told)
        x = x + self.text_out(heard.transpose(1, 2).flatten(2))
        y = self.ffn(modulated(by_frame(x, cond), shift, scale))
        return x + (gate_ffn * y).flatten(1, 2)


def by_frame(x: Tensor, cond: Conditioning) -> Tensor:
    """[B, S, D] to [B, T, n, D], with n tokens in a frame; a token of no frame is one by itself."""
    return x.unflatten(1, (cond.shape[0], -1))


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

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; every token has a level of its own."""
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        level = self._level(sigma, text.memo, rungs)
        return self._condition(level, turned, text, (sigma.shape[1], 1, 1))

    def _level(self, sigma: Tensor, memo: Memo, rungs: Rungs | None) -> Level:
        """Noise levels [B, T] for the blocks; those that are known, as `rungs`, are looked up."""
        if rungs is None or torch.is_grad_enabled():
            return Level(self._time(sigma))
        (rows,), owner = rungs.once(memo, (id(self), "level"), self._rows)
        return Level(None, rows, owner)

    def _time(self, sigma: Tensor) -> Tensor:
        """sigma [B, T] embedded [B, T, D]."""
        wave = sinusoid(1000 * sigma, self.width).to(self.text.weight.dtype)
        return F.silu(self.time(wave))

    def _rows(self, sigma: Tensor) -> tuple[Tensor]:
        """What all blocks make of sigma [R, G], [R, G, blocks, 6 D]."""
        time = self._time(sigma)
        return (stacked(self.blocks, time, lambda block: block.modulation(time)),)

    def _condition(
        self, level: Level, turned: Turn, text: Text, shape: tuple[int, int, int]
    ) -> Conditioning:
        """Noise levels of frames, positions and words, for the blocks."""
        dtype = self.text.weight.dtype
        words = text.lasting.once(
            (id(self), "words"), lambda: self.text(text.tokens.to(dtype)), of=text.tokens
        )
        return Conditioning(level, *turned, words, text, shape)

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

    def __init__(self, traits: Traits, predicts: str = "velocity") -> None:
        super().__init__(traits, traits.width, traits.feed_forward)
        self.predicts = predicts
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
        key = (id(self), "spots", x.dtype)
        spots = video.memo.once(key, lambda: _spots(video, rows, columns, x))
        x = x + spots.repeat(1, frames, 1)
        level = self._level(video.sigma, video.memo, video.ladder)
        cond = self._condition(level, turned, text, (frames, rows, columns))
        if self.predicts == "data":
            cond = replace(cond, noisy=(video.z, video.sigma))
        return x, video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        p, (frames, rows, columns) = self.traits.patch[1], cond.shape
        z = self.leave(F.layer_norm(x, x.shape[-1:])).unflatten(1, (frames, rows, columns))
        z = z.unflatten(-1, (-1, p, p)).permute(0, 4, 1, 2, 5, 3, 6)  # [B, C, T, r, p, c, p]
        z = z.flatten(5, 6).flatten(3, 4)
        if cond.noisy is None:
            return z
        noisy, sigma = cond.noisy
        return (noisy - z) / sigma[:, None, :, None, None].clamp(min=LEAST)


def _spots(video: Frames, rows: int, columns: int, like: Tensor) -> Tensor:
    """Row and column of the tokens of a frame as sinusoids [1, n, D].

    Rotary positions tell where tokens are to each other, and these where each is in the image.
    """
    width, device = like.shape[-1] // 4 * 2, like.device
    r = sinusoid(torch.arange(rows, device=device), width, period=100)
    c = sinusoid(torch.arange(columns, device=device), width, period=100)
    both = torch.cat([r[:, None].expand(-1, columns, -1), c.expand(rows, -1, -1)], -1)
    return F.pad(both.flatten(0, 1), (0, like.shape[-1] - 2 * width))[None].to(like.dtype)


def _places(video: Frames, rows: int, columns: int) -> Tensor:
    """Time, row and column of every token [S, 3]."""
    device = video.z.device
    axes = (video.times.to(device), *(torch.arange(n, device=device) for n in (rows, columns)))
    grid = torch.meshgrid(*(axis.float() for axis in axes), indexing="ij")
    return torch.stack(grid, -1).flatten(0, 2)
