"""The encoder of the Wan video VAE: one chunk of frames in, moments of its latents out.

Letters: B batch, T frames, H and W height and width of the (patched) pixels, h = H/8, w = W/8,
t = 1 for the first frame of a clip alone, otherwise T/4.

Source: github.com/Wan-Video/Wan2.1 and Wan2.2, in the layout of diffusers' `WanEncoder3d`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .vae_blocks import (
    CausalConv3d,
    ChannelRMSNorm,
    Chunk,
    Downsample,
    MidBlock,
    mean_down,
    residual_blocks,
)


class ResidualDownBlock(nn.Module):
    """Wan 2.2: residual blocks and a downsampling, around which the averaged input is added.

    x --+-- resnets -- downsampler --(+)--
        +------- mean_down ----------+
    """

    def __init__(self, in_width: int, out_width: int, depth: int, space: bool, time: bool) -> None:
        super().__init__()
        self.shrink = (2 if time else 1, 2 if space else 1)
        self.resnets = residual_blocks(in_width, out_width, depth)
        self.downsampler = Downsample(out_width, time) if space else None

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in, T, H, W] -> [B, out, T', H', W'] at the block's own strides."""
        y = x
        for block in self.resnets:
            y = block(y, chunk)
        if self.downsampler is not None:
            y = self.downsampler(y, chunk)
        return y + mean_down(x, y.shape[1], *self.shrink)


class Encoder(nn.Module):
    """Four stages of residual blocks with a downsampling between each two, then the mid block.

    widths: the width of each stage. depth: residual blocks of a stage. temporal: for each
    downsampling, whether it halves the frames as well. residual: Wan 2.2's stages; without it the
    blocks of all stages stand in one flat list, as in Wan 2.1's weight files.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        base_width: int,
        widths: Sequence[int],
        depth: int,
        temporal: Sequence[bool],
        residual: bool,
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv3d(in_channels, base_width, 3)
        self.down_blocks = nn.ModuleList()
        width = base_width
        for stage, out_width in enumerate(widths):
            shrinks = stage < len(temporal)
            time = shrinks and temporal[stage]
            if residual:
                self.down_blocks.append(ResidualDownBlock(width, out_width, depth, shrinks, time))
            else:
                self.down_blocks.extend(residual_blocks(width, out_width, depth))
                if shrinks:
                    self.down_blocks.append(Downsample(out_width, time))
            width = out_width
        self.mid_block = MidBlock(width)
        self.norm_out = ChannelRMSNorm(width)
        self.conv_out = CausalConv3d(width, out_channels, 3)

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in_channels, T, H, W] -> [B, out_channels, t, h, w]."""
        x = self.conv_in(x, chunk)
        for block in self.down_blocks:
            x = block(x, chunk)
        x = self.mid_block(x, chunk)
        return self.conv_out(F.silu(self.norm_out(x)), chunk)
