"""What Qwen-Image's blocks are conditioned on: noise levels and positions.

Source: diffusers' `QwenImageTransformer2DModel` (Apache-2.0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import Embedder, RotaryEmbedding, axial_rotary, sinusoid
from wamkit.interfaces import Stack

from .blocks import QwenImageBlock, QwenSigma

if TYPE_CHECKING:
    from . import QwenImage

FREQUENCIES = 256  # width of the sinusoid of a noise level


class LevelEmbedder(nn.Module):
    """Noise levels to vectors, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.timestep_embedder = Embedder(FREQUENCIES, width, nn.SiLU())

    def forward(self, sigmas: Tensor) -> Tensor:
        """Levels [R] to SiLU of their embedding [R, D]; float32 until the embedder's weights."""
        waves = sinusoid(sigmas, FREQUENCIES, scale=1000)
        return F.silu(self.timestep_embedder(waves.to(self.timestep_embedder.linear_1.weight)))


class QwenImageStack(Stack):
    """Blocks over tokens of any width, in the heads of the backbone."""

    keep_float32 = ("timestep_embedder", r"norm_(added_)?[qk]\.weight$", "txt_norm")

    def __init__(self, config: QwenImage, width: int, mlp_dim: int, *, text: bool = False) -> None:
        super().__init__()
        self.axes = config.axes
        sizes = width, config.num_heads, sum(config.axes), mlp_dim
        self.time_text_embed = LevelEmbedder(width)
        self.transformer_blocks = nn.ModuleList(
            QwenImageBlock(*sizes, text=text) for _ in range(config.layers)
        )
        self.blocks = tuple(self.transformer_blocks)

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> QwenSigma:
        return QwenSigma(self.time_text_embed(sigmas).float())

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        """Times stand on the axis of images: 0 is the one to be made, t + 1 the reference at t."""
        return axial_rotary(positions, self.axes)
