"""The blocks of a FLUX transformer and what they are conditioned on, as both generations agree.

A backbone is a stack with two ends; an action expert is a narrower stack through which no words
pass. Noise levels are multiplied by 1000 in float32, before anything is rounded to the dtype of the
weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs, spread

from wamkit.engine.attention import Block
from wamkit.engine.layers import rotary_angles, sinusoid
from wamkit.interfaces.types import Memo, Text

from .blocks import Conditioning, Lanes

LEVELS = 256  # width of the sinusoid of a noise level


def embedded(embedder: nn.Module, level: Tensor) -> Tensor:
    """A noise level or guidance scale [...], times 1000, as [..., D] float32."""
    dtype = next(embedder.parameters()).dtype
    return embedder(sinusoid(1000 * level.float(), LEVELS).to(dtype)).float()


Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


class FluxStack(nn.Module, ABC):
    """Double blocks, then single ones; each frame, or token of no frame, has a level of its own."""

    theta: ClassVar[float]
    apart: ClassVar[bool]
    """Whether each block has modulation of its own."""
    axes: tuple[int, ...]
    """Numbers of a head that turn with each axis: image, row, column, and word in FLUX.2."""
    transformer_blocks: nn.ModuleList
    single_transformer_blocks: nn.ModuleList

    @abstractmethod
    def level(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        """Noise levels sigma [B, g], and all else that is not a token, to [B, g, D] float32.

        `memo` is for what is the same at every level.
        """

    @abstractmethod
    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        """The modulation that all double and all single blocks share, if they do."""

    @abstractmethod
    def known(self, level: Tensor, *, words: bool) -> tuple[Tensor, Tensor]:
        """Modulation of a lane's levels [R, G, D] in double and in single blocks: [R, G, m, D].

        Where each block has its own, [R, G, blocks, m, D].
        """

    def out(self, level: Tensor) -> Tensor:
        """What the way out, if there is one, makes of levels [R, G, D], [R, G, ...]."""
        return level

    @property
    def blocks(self) -> list[Block]:
        """Double blocks, then single ones."""
        return [*self.transformer_blocks, *self.single_transformer_blocks]  # type: ignore[list-item]

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; times stand on the axis of images, where targets are at 0."""
        turn = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        shape = sigma.shape[1], 1, 1
        return self._conditioning([(sigma, rungs)], text, shape, turn, text.memo)

    def _conditioning(
        self,
        lanes: Sequence[tuple[Tensor, Rungs | None]],
        text: Text | None,
        shape: tuple[int, int, int],
        turn: Turn,
        memo: Memo,
    ) -> Conditioning:
        """Noise levels [B, g] of each lane; `text` is there for its words only if two lanes are.

        Levels that are known, as rungs, are looked up in `memo`, unless samples differ in their
        pooled text.
        """
        words = text.tokens.shape[1] if text is not None and len(lanes) > 1 else 0
        extra = None if text is None else text.extra
        known = [rungs for _, rungs in lanes if rungs is not None]
        if (
            len(known) < len(lanes)
            or torch.is_grad_enabled()
            or (extra is not None and len(extra) > 1)
        ):
            level = self.level(torch.cat([sigma for sigma, _ in lanes], 1), text, memo)
            levels = list(level.split([sigma.shape[1] for sigma, _ in lanes], 1))
            return Conditioning(words, shape, levels, *self.shared(levels), (), None, *turn)
        memo = memo.once((id(self), "levels"), Memo, of=extra)
        double: Lanes = []
        single: Lanes = []
        owners, out = [], None
        for i, rungs in enumerate(known, start=2 - len(known)):
            make = partial(self._made, text, memo, words=i == 0)
            (*mods, ends), owner = rungs.once(memo, i, make)
            if not self.apart:
                mods = [spread(x, owner) for x in mods]
            double.append(mods[0])
            single.append(mods[1])
            owners.append(owner)
            out = spread(ends, owner)
        return Conditioning(words, shape, [], double, single, tuple(owners), out, *turn)

    def _made(
        self, text: Text | None, memo: Memo, sigma: Tensor, *, words: bool
    ) -> tuple[Tensor, ...]:
        """What is made of a lane's levels [R, G], for both kinds of block and the way out."""
        level = self.level(sigma, text, memo)
        out = level if words else self.out(level)
        return *self.known(level, words=words), out

    def _turn(self, at: Tensor, word: Tensor | None = None) -> Turn:
        """Positions of image, row and column `at` [S, 3]; `word` [S] is 0 for all that is none."""
        places = [*at.unbind(-1), torch.zeros_like(at[:, 0]) if word is None else word]
        angles = torch.cat(
            [
                rotary_angles(place, size, theta=self.theta)
                for place, size in zip(places[: len(self.axes)], self.axes, strict=True)
            ],
            -1,
        )
        return angles.cos().float(), angles.sin().float()
