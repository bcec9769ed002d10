"""The video half of LTX-2's transformer between its two ends.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity

As LTX-Video's, but for the blocks, for positions in the middle of what a latent covers, and, in
2.3, for text that comes as wide as the model and a second modulation for it. Source:
`ltx_core/model/transformer` in github.com/Lightricks/LTX-2. Names and shapes are those of
diffusers' `LTX2VideoTransformer3DModel` without its audio half.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wamkit.types import Frames

from . import positions
from .backbone import LevelEmbedder, Transformer
from .video_blocks import LTX2Block

if TYPE_CHECKING:
    from . import LTX2


class LTX2Backbone(Transformer):
    """`VideoBackbone` with the architecture of the video half of LTX-2."""

    def __init__(self, config: LTX2) -> None:
        traits, newer = config.traits, config.design == "2.3"
        super().__init__(
            config,
            9 if newer else 6,
            lambda: LTX2Block(traits.width, traits.head_size, config.design),
        )
        if newer:
            self.caption_projection = None
            self.prompt_adaln = LevelEmbedder(traits.width, 2)

    def _turn(self, video: Frames) -> tuple[Tensor, Tensor]:
        """Of the middle of what a latent covers in time and space."""
        device, width = video.z.device, self.traits.width
        times = video.times.to(device)
        begins, ends = (positions.first_picture(t, causal=True) for t in (times, times + 1))
        seconds = (begins / self.fps + ends / self.fps) / 2
        rows, columns = (
            stride * (torch.arange(n, device=device, dtype=torch.float32) + 0.5)
            for stride, n in zip(positions.STRIDE[1:], video.z.shape[3:], strict=True)
        )
        places = positions.lattice(seconds, rows, columns)
        frequency = positions.frequencies(width, torch.float64, device)
        return positions.turns(places, frequency, self.traits.heads, width)
