"""Conditioning of the blocks of both FLUX generations: noise levels and positions.

A backbone is a stack with two ends; an action expert is a narrower stack that no text tokens pass.
Noise levels are multiplied by 1000 in float32, before anything is rounded to the dtype of the
weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from wamkit.engine.layers import RotaryEmbedding, axial_rotary, sinusoid
from wamkit.interfaces import Stack

from .blocks import DoubleBlock, SingleBlock

FREQUENCIES = 256  # width of the sinusoid of a noise level


def embed_sinusoid(embedder: nn.Module, level: Tensor) -> Tensor:
    """Noise levels or guidance scales [R], times 1000, as [R, D] float32."""
    dtype = next(embedder.parameters()).dtype
    return embedder(sinusoid(1000 * level.float(), FREQUENCIES).to(dtype)).float()  # type: ignore[no-any-return]


class FluxStack(Stack):
    """Double blocks, then single ones."""

    theta: ClassVar[float]

    def __init__(
        self,
        axes: tuple[int, ...],
        double: Iterable[DoubleBlock],
        single: Iterable[SingleBlock],
    ) -> None:
        super().__init__()
        self.axes = axes
        """Elements of a head that turn with image, row, column, and text token in FLUX.2."""
        self.transformer_blocks = nn.ModuleList(double)
        self.single_transformer_blocks = nn.ModuleList(single)
        self.blocks = (*self.transformer_blocks, *self.single_transformer_blocks)

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        return axial_rotary(positions, self.axes, theta=self.theta)
