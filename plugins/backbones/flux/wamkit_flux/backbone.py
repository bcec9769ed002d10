"""A FLUX transformer between its two ends, as far as both generations agree.

FLUX predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from itertools import accumulate
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from wamkit.config.parts import Traits
from wamkit.engine.layers import TextCond, ada_norm, constant, patches, unpatched
from wamkit.interfaces import Backbone, Clip
from wamkit.interfaces.dual_stream import TextLane
from wamkit.interfaces.types import Text

from .blocks import Modulation
from .embedders import FluxStack


class FluxBackbone(FluxStack, Backbone):
    """Either generation; every frame has a noise level of its own.

    The k-th reference image stands at `reference` * (k + 1) on the first axis of positions, images
    to be made stand at 0. Their times are ignored. A frame that holds a vector stands on the
    other side, by its time t at -`reference` * (t + 1).
    """

    reference: ClassVar[int]

    def add_ends(self, traits: Traits, *, bias: bool) -> None:
        """Add what leads into the blocks and out of them."""
        width, (_, rows, columns) = traits.width, traits.patch_size
        channels = rows * columns * traits.latent_channels
        self.traits = traits
        self.x_embedder = nn.Linear(channels, width, bias=bias)
        self.context_embedder = nn.Linear(traits.text_width, width, bias=bias)
        self.norm_out = Modulation(width, 2, bias=bias, first_scale=0)
        self.proj_out = nn.Linear(width, channels, bias=bias)
        lanes = (TextLane(block) for block in self.transformer_blocks)  # type: ignore[arg-type]
        self.text_blocks = (*lanes, *self.single_transformer_blocks)

    def embed_text(self, text: Text) -> TextCond:
        """Tokens of the text stream."""
        return TextCond(self.context_embedder(text.tokens.to(self.context_embedder.weight.dtype)))

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        """Image, row and column are 0; the fourth axis, which FLUX.2 has, counts tokens."""
        count = torch.arange(text.length, device=text.tokens.device, dtype=torch.float64)
        axes = [torch.zeros_like(count)] * 3 + [count]
        return torch.stack(axes[: len(self.axes)], -1)

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        """Image, row and column of each token [S, 3].

        References are images k * `reference`, frames to denoise image 0. Any other frame stands on
        the other side, by its time t at -`reference` * (t + 1).
        """
        index = [
            self.reference * k * r
            for k, r in zip(accumulate(clip.is_reference), clip.is_reference, strict=True)
        ]
        known = [g or v for g, v in zip(clip.is_given, clip.is_vector, strict=True)]
        others = tuple(k and not r for k, r in zip(known, clip.is_reference, strict=True))
        images = constant(tuple(index), torch.float64, times.device)
        later = self.reference * (times + 1) * constant(others, torch.bool, times.device)
        return super().positions(images - later, clip)

    def patchify(self, clip: Clip) -> Tensor:
        rows = patches(clip.latents, self.traits.patch_size)
        return self.x_embedder(rows.to(self.x_embedder.weight.dtype))  # type: ignore[no-any-return]

    def final_modulation(self, sigma: Any) -> Tensor:
        """1 + scale and shift [R, 2, D]."""
        return self.norm_out(sigma.embedding)  # type: ignore[no-any-return]

    def final_layer(self, x: Tensor, modulation: Tensor, clip: Clip) -> Tensor:
        scale, shift = modulation.unbind(2)
        y = self.proj_out(ada_norm(x, shift, scale))
        return unpatched(y, clip.grid, self.traits.patch_size[1:], channels_last=False)
