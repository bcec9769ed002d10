"""Wan's transformer between its two ends: frames to tokens, and tokens to velocity.

Source: `wan/modules/model.py` in github.com/Wan-Video/Wan2.1 and Wan2.2 (Apache-2.0). Names and
shapes of all parameters are those of diffusers' `WanTransformer3DModel`. Wan predicts
noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import ada_norm, patches, unpatched
from wamkit.interfaces import Backbone, Clip

from .blocks import WanBlock, WanSigma
from .embedders import ConditionEmbedder, WanStack

if TYPE_CHECKING:
    from . import Wan


class PatchEmbedding(nn.Conv3d):
    """A convolution whose stride is its kernel, run as one matrix product over the patches."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__(channels, width, patch, stride=patch)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, T, h, w] to [B, S, D]."""
        rows = patches(z.to(self.weight.dtype), self.kernel_size)
        return F.linear(rows, self.weight.flatten(1), self.bias)


class WanBackbone(WanStack, Backbone):
    """The architecture of Wan 2.1 and 2.2."""

    def __init__(self, config: Wan) -> None:
        traits = config.traits
        width, channels = traits.width, traits.latent_channels
        embedder = ConditionEmbedder(width, traits.text_width, traits.cond_embeds_width)
        super().__init__(traits.head_dim, embedder)
        self.traits = traits
        self.patch_embedding = PatchEmbedding(
            channels + traits.cond_channels, width, traits.patch_size
        )
        sizes = (width, traits.num_heads, traits.head_dim, traits.mlp_dim)
        self.blocks = nn.ModuleList(
            WanBlock(*sizes, image=traits.cond_embeds_width > 0) for _ in range(traits.depth)
        )
        _, rows, columns = traits.patch_size
        self.proj_out = nn.Linear(width, rows * columns * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def patchify(self, clip: Clip) -> Tensor:
        z = clip.latents
        if clip.cond_latents is not None:
            z = torch.cat([z, clip.cond_latents.to(z)], 1)
        return self.patch_embedding(z)  # type: ignore[no-any-return]

    def final_modulation(self, sigma: WanSigma) -> Tensor:
        """Shift and 1 + scale [R, 2, D]."""
        rows = self.scale_shift_table.float() + sigma.embedding[:, None]
        rows[:, 1] += 1
        return rows

    def final_norm(self, x: Tensor, modulation: Tensor) -> Tensor:
        shift, scale = modulation.unbind(2)
        return ada_norm(x, shift, scale)

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        y = self.proj_out(self.final_norm(x, modulation))
        return unpatched(y, clip.grid, self.traits.patch_size[1:])
