"""What Wan's blocks are conditioned on: noise levels, words, a picture, and places of tokens.

Source: `wan/modules/model.py` in github.com/Wan-Video/Wan2.1 and Wan2.2 (Apache-2.0), under the
parameter names of diffusers' `WanTransformer3DModel`. Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.memo import Memo, Rungs, of_levels, spread
from wamkit.engine.layers import Embedder, FeedForward, LayerNorm, rotary_angles, sinusoid
from wamkit.interfaces.types import Text

from .blocks import Conditioning

LEVELS = 256  # width of the sinusoid of a noise level
KEEP_FLOAT32 = ("time_embedder", "scale_shift_table", "norm")

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


class ImageEmbedder(nn.Module):
    """CLIP tokens of the first image to the model's width, under diffusers' names."""

    def __init__(self, extra_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(extra_width)
        self.ff = FeedForward(extra_width, extra_width, approximate="none")
        self.ff.net[2] = nn.Linear(extra_width, width)
        self.norm2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L', extra width] to [B, L', D]."""
        return self.norm2(self.ff(self.norm1(x)))


class ConditionEmbedder(nn.Module):
    """The embedders of noise level, words and image, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int, extra_width: int = 0) -> None:
        super().__init__()
        self.time_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        self.text_embedder = Embedder(text_width, width, nn.GELU("tanh"))
        self.image_embedder = ImageEmbedder(extra_width, width) if extra_width else None

    def forward(
        self,
        sigma: Tensor,
        turn: Turn,
        text: Text,
        shape: tuple[int, int, int],
        memo: Memo,
        rungs: Rungs | None,
    ) -> Conditioning:
        """Noise levels sigma [B, T] of `shape[0]` frames, rotary positions and words, for blocks.

        What is made of levels that are known, as `rungs`, is kept in `memo`. The picture's tokens
        are read only by a model that has an embedder for them.
        """
        dtype, picture = self.time_proj.weight.dtype, self.image_embedder
        found, owner = of_levels(memo, (id(self), "time"), self.time, sigma, rungs)
        level, modulation = (spread(x, owner) for x in found)
        words = text.lasting.once(
            (id(self), "words"), lambda: self.text_embedder(text.tokens.to(dtype)), of=text.tokens
        )
        image, tokens = None, text.extra
        if picture is not None and tokens is not None:
            image = text.memo.once(
                (id(self), "image"), lambda: picture(tokens.to(dtype)), of=tokens
            )
        return Conditioning(modulation, level, *turn, words, image, text, shape)

    def time(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma [B, T] to its embedding [B, T, D] and a modulation [B, T, 6, D], both float32."""
        waves = sinusoid(1000 * sigma.float(), LEVELS)
        level = self.time_embedder(waves.to(self.time_embedder.linear_1.weight.dtype)).float()
        modulation = self.time_proj(F.silu(level).to(self.time_proj.weight.dtype)).float()
        return level, modulation.unflatten(-1, (6, -1))


def turn(at: Tensor, head_size: int) -> Turn:
    """cos and sin [S, E / 2] float32 of the time, row and column of each token `at` [S, 3].

    Row and column take 2 * (E // 6) numbers of a head each, time takes the others.
    """
    space = 2 * (head_size // 6)
    parts = (head_size - 2 * space, space, space)
    angles = torch.cat(
        [rotary_angles(place, part) for place, part in zip(at.unbind(-1), parts, strict=True)], -1
    )
    return angles.cos().float(), angles.sin().float()
