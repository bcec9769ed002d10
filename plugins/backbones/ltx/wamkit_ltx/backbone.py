"""LTX's transformers between their two ends: frames to tokens, and tokens to velocity.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity

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

from wamkit.engine.attention import sdpa
from wamkit.engine.layers import modulated
from wamkit.interfaces.types import Frames, Segment, Text

from .blocks import Conditioning, by_frame
from .positions import places
from .stack import LTX2Stack, LTXStack, Stack

if TYPE_CHECKING:
    from . import LTX, LTX2


class Ends(Stack):
    """What stands in front of a stack and behind it."""

    attend = staticmethod(sdpa)

    def __init__(self, config: LTX | LTX2) -> None:
        self.traits = traits = config.traits
        width = traits.width
        super().__init__(config, width, config.feed_forward)
        self.proj_in = nn.Linear(traits.latent_channels, width)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, traits.latent_channels)

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns."""
        x = self.proj_in(video.z.to(self.proj_in.weight.dtype).flatten(2).transpose(1, 2))
        turned = video.memo.once(
            (id(self), "turn"), lambda: self._turn(places(video)), of=video.times
        )
        _, _, frames, rows, columns = video.z.shape
        shape, known = (frames, rows, columns), (video.memo, video.ladder)
        cond = self._condition(video.sigma, turned, text, shape, *known)
        return x, video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        rows = self.scale_shift_table.float() + cond.level.unsqueeze(2)  # [B, T, 2, D]
        shift, scale = rows.unsqueeze(3).unbind(2)  # two of [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, C]
        return y.unflatten(2, cond.shape[1:]).movedim(-1, 1)


class LTXBackbone(Ends, LTXStack):
    """`VideoBackbone` with the architecture of LTX-Video 0.9."""


class LTX2Backbone(Ends, LTX2Stack):
    """`VideoBackbone` with the architecture of the video half of LTX-2."""
