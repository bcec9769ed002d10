"""Pooled hidden states, state and prompt, through a perceptron, to the whole chunk at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.config.reading import places
from wamkit.engine.layers import LayerNorm, additive_mask, attention, masked_mean
from wamkit.interfaces import ReaderHead, append_state
from wamkit.interfaces.types import ModelInputs, Text, TokenGroup

if TYPE_CHECKING:
    from . import Regression


class MeanPool(nn.Module):
    """The mean of the tokens, normalized."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[B, S, D] to [B, D]; `mask` [B, S] is as `Text.mask`."""
        return self.norm(masked_mean(tokens, mask))


class AttentionPool(nn.Module):
    """Attention of one learned query to the normalized tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """[B, S, D] to [B, D]; `mask` [B, S] is as `Text.mask`."""
        y = self.norm(tokens)[:, None]  # [B, 1, S, D]: one head
        query = self.query.expand(y.shape[0], 1, 1, -1).to(y.dtype)
        return attention(query, y, y, additive_mask(mask, y.dtype))[:, 0, 0]


class RegressionHead(ReaderHead):
    """`ReaderHead` that regresses vectors with a perceptron."""

    keep_float32 = ("norm",)

    def __init__(self, config: Regression, sizes: HeadContext) -> None:
        super().__init__()
        assert config.layers is not None
        self.sizes, traits = sizes, sizes.traits
        self.layers = places(config.layers, traits.depth)
        pool = MeanPool if config.pool == "mean" else AttentionPool
        self.pools = nn.ModuleList(pool(traits.width) for _ in self.layers)
        self.state_to_text: nn.Linear | None = None
        if sizes.state and config.state == "text":
            self.state_to_text = nn.Linear(sizes.state, traits.text_width)
        self.reads_state = bool(sizes.state) and config.state == "concat"
        self.reads_text = config.text == "pooled"
        inputs = len(self.layers) * traits.width
        inputs += sizes.state * self.reads_state + traits.text_width * self.reads_text
        widths = [inputs, *[config.width] * config.depth]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.decoders = nn.ModuleDict(
            {part: nn.Linear(config.width, self._count(part)) for part in sizes.predicts}
        )

    def _count(self, part: str) -> int:
        """How many values a part has in one chunk."""
        return (self.sizes.chunk if part == "action" else 1) * self.sizes.token_dim(part)

    def prepare(self, inputs: ModelInputs) -> ModelInputs:
        return inputs if self.state_to_text is None else append_state(inputs, self.state_to_text)

    def embed_text(self, text: Text) -> tuple[Tensor, ...]:
        """The mean of the prompt, if it is read."""
        return (masked_mean(text.whole.tokens, text.whole.mask),) if self.reads_text else ()

    def encode_hidden(
        self, hidden: Sequence[Tensor], mask: Tensor | None, text: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...]:
        """Pooled layers, and what is read of the prompt."""
        return *(pool(x, mask) for pool, x in zip(self.pools, hidden, strict=True)), *text

    def read(
        self,
        inputs: ModelInputs,
        groups: Sequence[TokenGroup],
        memory: tuple[Tensor, ...],
        levels: Any,
        layout: Any,
        call: Callable[..., Any],
    ) -> dict[str, Tensor]:
        pieces, count = list(memory), len(self.pools)
        if self.reads_state and inputs.state is not None:
            pieces.insert(count, inputs.state)
        y = torch.cat([piece.to(memory[0].dtype) for piece in pieces], 1)
        for layer in self.hidden:
            y = nn.functional.gelu(layer(y), approximate="tanh")
        return {
            part: inputs.noisy(part).towards(
                decode(y).unflatten(1, (-1, self.sizes.token_dim(part)))
            )
            for part, decode in self.decoders.items()
            if getattr(inputs, part) is not None
        }
