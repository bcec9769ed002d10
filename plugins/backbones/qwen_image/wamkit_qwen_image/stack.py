"""Qwen-Image's blocks with what they are conditioned on: noise levels and places of tokens.

The middle of the backbone, and by itself an action expert through which no words pass. Source:
diffusers' `QwenImageTransformer2DModel` (Apache-2.0). Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo, Rungs, spread, stacked

from wamkit.engine.layers import Embedder, rotary_angles, sinusoid
from wamkit.interfaces.types import Text

from .blocks import Conditioning, Level, QwenImageBlock

if TYPE_CHECKING:
    from . import QwenImage

LEVELS = 256  # width of the sinusoid of a noise level

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


class LevelEmbedder(nn.Module):
    """Noise levels to vectors, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = Embedder(LEVELS, width, nn.SiLU())

    def forward(self, sigma: Tensor) -> Tensor:
        """sigma [B, T] to SiLU of its embedding [B, T, D]; float32 until the embedder's weights."""
        waves = sinusoid(sigma, LEVELS, scale=1000)
        return F.silu(self.timestep_embedder(waves.to(self.timestep_embedder.linear_1.weight)))


class QwenImageStack(nn.Module):
    """Blocks over tokens of any width, in the heads of the backbone."""

    keep_float32 = ("timestep_embedder", r"norm_(added_)?[qk]\.weight$", "txt_norm")

    def __init__(
        self, config: QwenImage, width: int, feed_forward: int, *, words: bool = False
    ) -> None:
        super().__init__()
        self.axes = config.axes
        sizes = width, config.heads, sum(config.axes), feed_forward
        self.time_text_embed = LevelEmbedder(width)
        self.transformer_blocks = nn.ModuleList(
            QwenImageBlock(*sizes, words=words) for _ in range(config.layers)
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.transformer_blocks

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`, for tokens that take the weights of images.

        Every token has a level of its own. Times stand on the axis of images: 0 is the image in the
        making, a reference is at its time plus one. Rows and columns count from the middle.
        """
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        level = self._level([(sigma, rungs)], text.memo)
        return Conditioning(0, level, *turned, (sigma.shape[1], 1, 1))

    def _level(self, lanes: Sequence[tuple[Tensor, Rungs | None]], memo: Memo) -> Level:
        """Noise levels [B, 1] of words, if any pass, and [B, T] of frames, for the blocks.

        If all of them are known, as rungs, they are looked up in `memo`.
        """
        known = [rungs for _, rungs in lanes if rungs is not None]
        if len(known) < len(lanes) or torch.is_grad_enabled():
            level, text = self._embedded(torch.cat([sigma for sigma, _ in lanes], 1)), None
            if len(lanes) > 1:
                text, level = level[:, :1], level[:, 1:]
            return Level(text, level)
        (rows, *out), owner = known[-1].once(memo, (id(self), "level"), self._rows)
        text_rows = None
        if len(known) > 1:
            (text_rows,), _ = known[0].once(memo, (id(self), "text level"), self._text_rows)
        ends = (spread(x, owner) for x in out)
        return Level(None, None, text_rows, rows, owner, *ends)

    def _embedded(self, sigma: Tensor) -> Tensor:
        """SiLU of embedded levels [B, T, D]."""
        dtype = self.transformer_blocks[0].get_parameter("attn.to_q.weight").dtype
        return self.time_text_embed(sigma).to(dtype)  # type: ignore[no-any-return]

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """What all blocks make of levels sigma [R, G] of frames, [R, G, blocks, 6 D]."""
        level = self._embedded(sigma)
        return (stacked(self.blocks, level, lambda b: b.modulation(level, words=False)),)

    def _text_rows(self, sigma: Tensor) -> tuple[Tensor]:
        """The same of levels of words."""
        level = self._embedded(sigma)
        return (stacked(self.blocks, level, lambda b: b.modulation(level, words=True)),)

    def _turn(self, at: Tensor) -> Turn:
        """The image index, row and column of each token `at` [S, 3] as rotary positions."""
        angles = [
            rotary_angles(place, size) for place, size in zip(at.unbind(-1), self.axes, strict=True)
        ]
        angle = torch.cat(angles, -1)
        return angle.cos().float(), angle.sin().float()
