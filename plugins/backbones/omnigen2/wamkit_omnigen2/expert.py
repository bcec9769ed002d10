"""OmniGen2's layers and their conditioning: noise levels and positions.

The middle of the backbone, and by itself an action expert. Source: OmniGen2 (arXiv:2506.18871),
`omnigen2/models/transformers` in github.com/VectorSpaceLab/OmniGen2 (Apache-2.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import Embedder, RMSNorm, axial_rotary, sinusoid
from wamkit.interfaces import Stack

from .blocks import EPS, Heads, OmniGen2Block, RotaryPositions, SigmaEmbedding

if TYPE_CHECKING:
    from . import OmniGen2

FREQUENCIES = 256  # width of the sinusoid of a noise level


def level_width_of(width: int) -> int:
    """Width of an embedded noise level: 1024, unless tokens are narrower."""
    return min(width, 1024)


class Embedders(nn.Module):
    """The embedders of noise levels and, in the backbone, of text, as the repository names them."""

    def __init__(self, width: int, text_width: int | None) -> None:
        super().__init__()
        self.timestep_embedder = Embedder(FREQUENCIES, level_width_of(width), nn.SiLU())
        if text_width is not None:
            self.caption_embedder = nn.Sequential(
                RMSNorm(text_width, EPS), nn.Linear(text_width, width)
            )


class OmniGen2Stack(Stack):
    """Layers over tokens of any width, in the heads of the backbone."""

    keep_float32 = ("timestep_embedder", r"norm(1|2|_q|_k)?\.weight$", r"caption_embedder\.0\.")

    def __init__(
        self, config: OmniGen2, width: int, mlp_dim: int, *, text_width: int | None = None
    ) -> None:
        super().__init__()
        self.axes = config.axes
        heads = Heads(config.num_heads, config.num_kv_heads, sum(config.axes))
        self.time_caption_embed = Embedders(width, text_width)
        self.layers = nn.ModuleList(
            OmniGen2Block(width, heads, mlp_dim, level_width_of(width))
            for _ in range(config.layers)
        )
        self.blocks = tuple(self.layers)

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> SigmaEmbedding:
        """Levels [R], of which OmniGen2 counts the rest up to 1."""
        embedder = self.time_caption_embed.timestep_embedder
        waves = sinusoid(1 - sigmas.float(), FREQUENCIES, scale=1000)
        return SigmaEmbedding(F.silu(embedder(waves.to(embedder.linear_1.weight.dtype))))

    def embed_positions(self, positions: Tensor) -> RotaryPositions:
        """Place in the sequence, row and column turn a part of a head each.

        Places are counted in tokens, of which a frame's time has as many as the longer side of an
        image: of tokens that belong to no frame that side is not known, and times are places.
        """
        if positions.ndim == 3:  # of each sample, for all heads
            positions = positions.unsqueeze(1)
        return RotaryPositions(axial_rotary(positions[..., :3], self.axes))
