"""LTX's blocks with what they are conditioned on: noise levels, words, and places of tokens.

The middle of a backbone, and by itself an action expert: `LTXStack` is that of LTX-Video,
`LTX2Stack` that of the video half of LTX-2. Sources as in `.backbone`, letters as in
`wamkit.interfaces.types`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo, Rungs, of_levels, spread

from wamkit.engine.layers import Embedder, sinusoid
from wamkit.interfaces.types import Text

from . import positions
from .blocks import Conditioning, LTXBlock
from .positions import Turn
from .video_blocks import LTX2Block

if TYPE_CHECKING:
    from . import LTX, LTX2

LEVELS = 256  # width of the sinusoid of a noise level


class LevelEmbedder(nn.Module):
    """A noise level to its embedding and to `rows` vectors of modulation; diffusers' names."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": Embedder(LEVELS, width, nn.SiLU())})
        self.linear = nn.Linear(width, rows * width)

    def forward(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma [B, T] to an embedding [B, T, D] and modulation [B, T, rows, D], both float32."""
        embedder = self.emb["timestep_embedder"]
        waves = sinusoid(1000 * sigma.float(), LEVELS)
        level = embedder(waves.to(next(embedder.parameters()).dtype)).float()
        rows = self.linear(F.silu(level).to(self.linear.weight.dtype)).float()
        return level, rows.unflatten(-1, (-1, level.shape[-1]))


class Stack(nn.Module, ABC):
    """Blocks over tokens of any width, in the heads of the backbone, and embedders for them."""

    keep_float32 = ("timestep_embedder", "scale_shift_table", "norm")

    def __init__(self, config: Any, width: int, feed_forward: int) -> None:
        super().__init__()
        self.fps, self.heads = config.fps, config.heads
        self.inner = config.heads * config.head_size
        self.time_embed = LevelEmbedder(width, 6)
        self.prompt_adaln: LevelEmbedder | None = None
        self.caption_projection: Embedder | None = Embedder(
            config.text_width, width, nn.GELU("tanh")
        )
        self.transformer_blocks = nn.ModuleList(
            self._block(config, width, feed_forward) for _ in range(config.layers)
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.transformer_blocks

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; every token has a level of its own."""
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at.float()), of=at)
        return self._condition(sigma, turned, text, (sigma.shape[1], 1, 1), text.memo, rungs)

    def _condition(
        self,
        sigma: Tensor,
        turned: Turn,
        text: Text,
        shape: tuple[int, int, int],
        memo: Memo,
        rungs: Rungs | None,
    ) -> Conditioning:
        """Noise levels sigma [B, T] of frames, positions and words, for the blocks.

        What is made of levels that are known, as `rungs`, is kept in `memo`.
        """
        found, owner = of_levels(memo, (id(self), "level"), self._level, sigma, rungs)
        level, modulation, *rest = (spread(x, owner) for x in found)
        prompt = rest[0] if rest else None
        words = text.lasting.once(
            (id(self), "words"), lambda: self._words(text.tokens), of=text.tokens
        )
        return Conditioning(modulation, level, prompt, *turned, words, text, shape)

    def _level(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """Levels [B, T] embedded, their modulation, and that of the words if they follow it."""
        rest = () if self.prompt_adaln is None else (self.prompt_adaln(sigma)[1],)
        return *self.time_embed(sigma), *rest

    def _words(self, tokens: Tensor) -> Tensor:
        """[B, L, text width] to what the blocks attend to."""
        tokens = tokens.to(self.time_embed.linear.weight.dtype)
        return tokens if self.caption_projection is None else self.caption_projection(tokens)

    @abstractmethod
    def _block(self, config: Any, width: int, feed_forward: int) -> nn.Module:
        """One block over tokens of `width`."""

    @abstractmethod
    def _turn(self, at: Tensor) -> Turn:
        """The time, row and column of each token `at` [S, 3] float32 as rotary positions."""


class LTXStack(Stack):
    """That of LTX-Video 0.9."""

    def __init__(self, config: LTX, width: int, feed_forward: int) -> None:
        super().__init__(config, width, feed_forward)
        self.causal_times = config.causal_times

    def _block(self, config: LTX, width: int, feed_forward: int) -> LTXBlock:
        return LTXBlock(width, config.heads, config.head_size, feed_forward)

    def _turn(self, at: Tensor) -> Turn:
        """Of where a latent begins; frequencies are float32, as those it was trained with."""
        times, *sides = at.unbind(-1)
        begins = positions.first_picture(times, causal=self.causal_times)
        rows, columns = (n * side for n, side in zip(positions.STRIDE[1:], sides, strict=True))
        places = positions.fractions(begins / self.fps, rows, columns)
        frequency = positions.frequencies(self.inner, torch.float32, at.device)
        return positions.turns(places, frequency, self.heads, self.inner)


class LTX2Stack(Stack):
    """That of the video half of LTX-2."""

    def __init__(self, config: LTX2, width: int, feed_forward: int) -> None:
        super().__init__(config, width, feed_forward)
        if config.design == "2.3":
            self.time_embed = LevelEmbedder(width, 9)
            self.prompt_adaln = LevelEmbedder(config.text_width, 2)
            self.caption_projection = None

    def _block(self, config: LTX2, width: int, feed_forward: int) -> LTX2Block:
        return LTX2Block(config, width, feed_forward)

    def _turn(self, at: Tensor) -> Turn:
        """Of the middle of what a latent covers in time and space."""
        times, *sides = at.unbind(-1)
        begins, ends = (positions.first_picture(t, causal=True) for t in (times, times + 1))
        seconds = (begins / self.fps + ends / self.fps) / 2
        rows, columns = (
            n * (side + 0.5) for n, side in zip(positions.STRIDE[1:], sides, strict=True)
        )
        places = positions.fractions(seconds, rows, columns)
        frequency = positions.frequencies(self.inner, torch.float64, at.device)
        return positions.turns(places, frequency, self.heads, self.inner)
