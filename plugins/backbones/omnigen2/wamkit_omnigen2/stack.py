"""OmniGen2's layers with what they are conditioned on: noise levels and places of tokens.

The middle of the backbone, and by itself an action expert through which no words pass. Source:
OmniGen2 (arXiv:2506.18871), `omnigen2/models/transformers` in github.com/VectorSpaceLab/OmniGen2
(Apache-2.0). Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs, stacked

from wamkit.engine.layers import Embedder, RMSNorm, sinusoid
from wamkit.interfaces.types import Text

from .blocks import EPS, Conditioning, Heads, OmniGen2Block, turn

if TYPE_CHECKING:
    from . import OmniGen2

LEVELS = 256  # width of the sinusoid of a noise level


def level_width_of(width: int) -> int:
    """Width of an embedded noise level: 1024, unless tokens are narrower."""
    return min(width, 1024)


class Embedders(nn.Module):
    """The embedders of noise levels and, if any pass, of words, as the repository names them."""

    def __init__(self, width: int, text_width: int | None) -> None:
        super().__init__()
        self.timestep_embedder = Embedder(LEVELS, level_width_of(width), nn.SiLU())
        if text_width is not None:
            self.caption_embedder = nn.Sequential(
                RMSNorm(text_width, EPS), nn.Linear(text_width, width)
            )

    def level(self, sigma: Tensor) -> Tensor:
        """sigma [B, G] to SiLU of its embedding [B, G, width of levels]."""
        waves = sinusoid(1 - sigma.float(), LEVELS, scale=1000)
        return F.silu(self.timestep_embedder(waves.to(self.timestep_embedder.linear_1.weight)))


class OmniGen2Stack(nn.Module):
    """Layers over tokens of any width, in the heads of the backbone."""

    keep_float32 = ("timestep_embedder", r"norm(1|2|_q|_k)?\.weight$", r"caption_embedder\.0\.")

    def __init__(
        self, config: OmniGen2, width: int, feed_forward: int, *, words: bool = False
    ) -> None:
        super().__init__()
        self.axes = config.axes
        heads = Heads(config.heads, config.key_heads, sum(config.axes))
        self.time_caption_embed = Embedders(width, config.text_width if words else None)
        self.layers = nn.ModuleList(
            OmniGen2Block(width, heads, feed_forward, level_width_of(width))
            for _ in range(config.layers)
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.layers

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; every token has a level of its own.

        Times are counted in tokens of the sequence, of which a frame's time has as many as the
        longer side of an image, which is not known here.
        """
        cos, sin = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        if rungs is None or torch.is_grad_enabled():
            return Conditioning(cos, sin, self._level(sigma), None, None)
        (rows, *_), owner = rungs.once(text.memo, (id(self), "level"), self._rows)
        return Conditioning(cos, sin, None, rows, owner)

    def _level(self, sigma: Tensor) -> Tensor:
        """SiLU of embedded levels [B, G] in the dtype of the blocks [B, G, width of levels]."""
        dtype = self.layers[0].get_parameter("attn.to_q.weight").dtype
        return self.time_caption_embed.level(sigma).to(dtype)

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """What all blocks make of levels sigma [R, G], [R, G, blocks, 4 D]."""
        level = self._level(sigma)
        return (stacked(self.layers, level, lambda block: block.modulation(level)),)

    def _turn(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [1, 1, S, E / 2] of place in the sequence, row and column `at` [S, 3]."""
        return turn(*((p[None], n) for p, n in zip(at.unbind(-1), self.axes, strict=True)))
