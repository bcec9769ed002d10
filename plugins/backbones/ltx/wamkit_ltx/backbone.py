"""LTX's transformers between their two ends: frames to tokens, and tokens to velocity.

A latent is a token. The video half of LTX-2 differs in its blocks, in positions in the middle of
what a latent covers, and, in 2.3, in text that no layer projects and a second modulation for it.
Sources: `ltx_video/models/transformers/transformer3d.py` in github.com/Lightricks/LTX-Video, and
`ltx_core/model/transformer` in github.com/Lightricks/LTX-2. Names and shapes of all parameters are
those of diffusers' `LTXVideoTransformer3DModel`, and of `LTX2VideoTransformer3DModel` without its
audio half. LTX predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.config.parts import Traits
from wamkit.engine.layers import ada_norm, one_plus_scale, patches, unpatched
from wamkit.interfaces import Backbone, Clip

from .blocks import LTXBlock, LTXSigma
from .expert import LTX2Stack, LTXStack

if TYPE_CHECKING:
    from . import LTX, LTX2


class Ends(Backbone):
    """Input and output layers around a stack."""

    def _add_ends(self, traits: Traits) -> None:
        width, channels = traits.width, traits.latent_channels
        self.traits = traits
        self.proj_in = nn.Linear(channels, width)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, channels)

    def patchify(self, clip: Clip) -> Tensor:
        z = clip.latents.to(self.proj_in.weight.dtype)
        return self.proj_in(patches(z, self.traits.patch_size))

    def final_modulation(self, sigma: LTXSigma) -> Tensor:
        """Shift and 1 + scale [R, 2, D]."""
        return one_plus_scale(self.scale_shift_table.float() + sigma.embedding[:, None])

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        shift, scale = modulation.unbind(2)
        y = self.proj_out(ada_norm(x, shift, scale))
        return unpatched(y, clip.grid, self.traits.patch_size[1:])


class LTXBackbone(LTXStack, Ends):
    """The architecture of LTX-Video 0.9."""

    def __init__(self, config: LTX) -> None:
        width = config.traits.width
        super().__init__(config, width, config.mlp_dim)
        self._add_ends(config.traits)
        self.view_embed: nn.Parameter | None = None
        if config.views:
            self.view_embed = nn.Parameter(torch.randn(config.views, width))
            self.view_ada = nn.Sequential(nn.SiLU(), nn.Linear(width, LTXBlock.vectors * width))

    def embed_sigma(
        self, sigmas: Tensor, pooled: Tensor | None = None, view: Tensor | None = None
    ) -> LTXSigma:
        """With views, their embeddings and modulation are added to those of noise levels."""
        level = super().embed_sigma(sigmas)
        if self.view_embed is None:
            return level
        rows = self.view_embed[:1] if view is None else self.view_embed[view]
        shifts = self.view_ada(rows.to(self.time_embed.linear.weight.dtype)).float()
        projection = level.projection + shifts.unflatten(-1, (LTXBlock.vectors, -1))
        return level._replace(embedding=level.embedding + rows.float(), projection=projection)


class LTX2Backbone(LTX2Stack, Ends):
    """The architecture of the video half of LTX-2."""

    def __init__(self, config: LTX2) -> None:
        super().__init__(config, config.traits.width, config.mlp_dim)
        self._add_ends(config.traits)
