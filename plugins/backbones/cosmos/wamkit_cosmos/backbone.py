"""Cosmos' transformer between its two ends: frames to tokens, and tokens to velocity.

Two channels are added to the latents: 1 where a frame is given, and one that marks padding of the
image, of which wamkit has none.

Source: `MinimalV1LVGDiT` in github.com/nvidia-cosmos/cosmos-predict2 (Apache-2.0 code). Names and
shapes of all parameters are those of diffusers' `CosmosTransformer3DModel`. Predict2 is written
there in the letters of EDM (Karras et al. 2022); with t = sigma_edm / (1 + sigma_edm), its input
is (1 - t) data + t noise, its time is t in [0, 1), and the network predicts noise - data:
wamkit's sigma and velocity as they are. Predict2.5 is rectified flow in its own letters too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.engine.layers import ada_norm, constant, one_plus_scale, patches, unpatched
from wamkit.interfaces import Backbone, Clip

from .blocks import CosmosSigma, LowRankModulation
from .expert import CosmosStack

if TYPE_CHECKING:
    from . import Cosmos

MASKS = 2  # channels besides the latent ones: mask of given frames, mask of padding


class PatchEmbedding(nn.Module):
    """Patches of all channels to tokens, under diffusers' name `proj`."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        _, rows, columns = patch
        self.proj = nn.Linear(channels * rows * columns, width, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, T, h, w] to [B, S, D]."""
        return self.proj(patches(z, self.patch))


class CosmosBackbone(CosmosStack, Backbone):
    """The architecture of Cosmos-Predict2 and 2.5."""

    def __init__(self, config: Cosmos) -> None:
        traits = config.traits
        super().__init__(config, traits.width, config.mlp_dim)
        self.traits, self.reference_sigma = traits, config.context_sigma
        self.given_frames = config.given_frames
        width, channels = traits.width, traits.latent_channels
        self.patch_embed = PatchEmbedding(channels + MASKS, width, traits.patch_size)
        self.norm_out = LowRankModulation(width, config.modulation_rank, 2)
        _, rows, columns = traits.patch_size
        self.proj_out = nn.Linear(width, rows * columns * channels, bias=False)

    def patchify(self, clip: Clip) -> Tensor:
        z = clip.latents.to(self.patch_embed.proj.weight.dtype)
        if self.given_frames == "clean":
            given = (clip.sigma <= self.reference_sigma).to(z.dtype)[:, None, :, None, None]
        else:
            given = constant(clip.is_given, z.dtype, z.device)[:, None, None]
        given = given.expand(z.shape[0], 1, *z.shape[2:])
        return self.patch_embed(torch.cat([z, given, torch.zeros_like(given)], 1))

    def final_modulation(self, sigma: CosmosSigma) -> Tensor:
        """Shift and 1 + scale [R, 2, D]."""
        return one_plus_scale(self.norm_out(sigma))

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        shift, scale = modulation.unbind(2)
        y = self.proj_out(ada_norm(x, shift, scale))
        return unpatched(y, clip.grid, self.traits.patch_size[1:])
