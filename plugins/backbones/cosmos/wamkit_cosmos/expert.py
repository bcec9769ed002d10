"""Cosmos' blocks and their conditioning: noise levels, prompt, and positions.

The middle of the backbone, and by itself an action expert. Source: `MinimalV1LVGDiT` in
github.com/nvidia-cosmos/cosmos-predict2 (Apache-2.0 code), under the parameter names of diffusers'
`CosmosTransformer3DModel`. Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import (
    Embedder,
    RMSNorm,
    RotaryEmbedding,
    TextCond,
    rotary_angles,
    rotary_embedding,
    sinusoid,
)
from wamkit.interfaces import Stack
from wamkit.interfaces.types import Text

from .blocks import CosmosBlock, CosmosSigma

if TYPE_CHECKING:
    from . import Cosmos

BASE_FPS = 24  # images a second at which times are not scaled


class TimeEmbedding(nn.Module):
    """Noise levels to the shared modulation, and to the input of each block's own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.t_embedder = Embedder(width, width, nn.SiLU(), 3 * width, bias=False)
        self.norm = RMSNorm(width)

    def forward(self, sigmas: Tensor, dtype: torch.dtype) -> CosmosSigma:
        """Levels [R] in [0, 1]; `dtype` is that of the blocks."""
        waves = sinusoid(sigmas, self.width)
        shared = self.t_embedder(waves.to(self.t_embedder.linear_1.weight.dtype)).float()
        return CosmosSigma(shared, F.silu(self.norm(waves)).to(dtype))


class CosmosStack(Stack):
    """Blocks over tokens of any width, in the heads of the backbone, and embedders for them."""

    keep_float32 = ("time_embed", r"norm_[qk]\.weight$")
    # What reads the sinusoid of the noise level, which is as wide as the model: weight and axis.
    sinusoid_axes = (
        (r"^time_embed\.t_embedder\.linear_1\.weight$", 1),
        (r"^time_embed\.norm\.weight$", 0),
        (r"(norm\d|norm_out)\.linear_1\.weight$", 1),
    )

    def __init__(self, config: Cosmos, width: int, mlp_dim: int) -> None:
        super().__init__()
        self.head_dim, self.rope_scale = config.head_dim, config.rope_scale
        self.speed = 1.0 if config.fps is None else BASE_FPS / config.fps
        self.time_embed = TimeEmbedding(width)
        self.crossattn_proj: nn.Module = nn.Identity()
        if config.text_stack:
            proj = nn.Linear(config.text_stack, config.text_width)
            self.crossattn_proj = nn.Sequential(proj, nn.GELU())
        self.transformer_blocks = nn.ModuleList(
            CosmosBlock(width, mlp_dim, config) for _ in range(config.layers)
        )

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """The blocks, input side first."""
        return self.transformer_blocks

    @property
    def dtype(self) -> torch.dtype:
        """That of the blocks."""
        return self.transformer_blocks[0].get_parameter("attn1.to_q.weight").dtype

    def embed_text(self, text: Text) -> TextCond:
        tokens = self.crossattn_proj(text.tokens.to(self.dtype))
        return TextCond(tokens, text.attention_mask(self.dtype))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> CosmosSigma:
        return self.time_embed(sigmas.float(), self.dtype)

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        """Row and column take 2 * (E // 6) elements of a head each, time takes the others.

        An axis of n elements turns with the base 10000 scale^(n / (n - 2)) (NTK-aware scaling).
        """
        space = 2 * (self.head_dim // 6)
        sizes = (self.head_dim - 2 * space, space, space)
        time, row, column = positions[..., :3].unbind(-1)
        axes = zip((time * self.speed, row, column), sizes, self.rope_scale, strict=True)
        angles = [
            rotary_angles(p, n, theta=10_000 * scale ** (n / (n - 2))) for p, n, scale in axes
        ]
        return rotary_embedding(torch.cat(angles, -1), pairs=False)
