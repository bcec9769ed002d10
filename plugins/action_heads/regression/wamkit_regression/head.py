"""Pooled hidden states, the state and the words, through a perceptron, to every number at once."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.config.parts import Sizes
from wamkit.config.reading import places
from wamkit.engine.attention import sdpa
from wamkit.engine.layers import LayerNorm, masked_mean
from wamkit.interfaces import ReaderHead
from wamkit.interfaces.action_head import state_as_word
from wamkit.interfaces.types import Scene

if TYPE_CHECKING:
    from . import Regression


class MeanPool(nn.Module):
    """The mean of the tokens, normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """[B, S, D] to [B, D]; `valid` [B, S] is as `Text.mask`."""
        pooled: Tensor = self.norm(masked_mean(tokens, valid))
        return pooled


class AttentionPool(nn.Module):
    """What one learned query finds among the normalized tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """[B, S, D] to [B, D]; `valid` [B, S] is as `Text.mask`."""
        y = self.norm(tokens)[:, None]  # [B, 1, S, D]: one head
        asked = self.query.expand(y.shape[0], 1, 1, -1).to(y.dtype)
        return sdpa(asked, y, y, valid)[:, 0, 0]


class RegressionHead(ReaderHead):
    """`ReaderHead` that regresses numbers with a perceptron."""

    keep_float32 = ("norm",)

    def __init__(self, config: Regression, sizes: Sizes) -> None:
        super().__init__()
        assert config.layers is not None
        self.sizes, traits = sizes, sizes.traits
        self.layers = places(config.layers, traits.depth)
        pool = MeanPool if config.pool == "mean" else AttentionPool
        self.pools = nn.ModuleList(pool(traits.width) for _ in self.layers)
        self.state_word: nn.Linear | None = None
        if sizes.state and config.state == "text":
            self.state_word = nn.Linear(sizes.state, traits.text_width)
        self.state_numbers = bool(sizes.state) and config.state == "numbers"
        self.words = config.text == "pooled"
        inputs = len(self.layers) * traits.width
        inputs += sizes.state * self.state_numbers + traits.text_width * self.words
        widths = [inputs, *[config.width] * config.depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.decoders = nn.ModuleDict(
            {part: nn.Linear(config.width, self._count(part)) for part in sizes.predicts}
        )

    def _count(self, part: str) -> int:
        """How many numbers a part has in one chunk."""
        return (self.sizes.chunk if part == "action" else 1) * self.sizes.numbers(part)

    def prepare(self, scene: Scene) -> Scene:
        return scene if self.state_word is None else state_as_word(scene, self.state_word)

    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        pieces = [pool(x, valid) for pool, x in zip(self.pools, hidden, strict=True)]
        if self.state_numbers and scene.state is not None:
            pieces.append(scene.state)
        if self.words:
            pieces.append(masked_mean(scene.text.tokens, scene.text.mask))
        y = torch.cat([piece.to(hidden[0].dtype) for piece in pieces], 1)
        for layer in self.hidden:
            y = nn.functional.gelu(layer(y), approximate="tanh")
        return {
            part: scene.noisy(part).towards(decode(y).unflatten(1, (-1, self.sizes.numbers(part))))
            for part, decode in self.decoders.items()
            if getattr(scene, part) is not None
        }
