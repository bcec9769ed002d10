"""The decoder of the Wan video VAE: one latent in, its frames out.

Letters: B batch, C latent channels, t latents, h and w their height and width, T = 1 frame for the
first latent of a clip, otherwise 4t, H = 8h, W = 8w (patched pixels).

Source: github.com/Wan-Video/Wan2.1 and Wan2.2, in the layout of diffusers' `WanDecoder3d`.
"""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from .vae_blocks import (
    CausalConv3d,
    ChannelRMSNorm,
    Chunk,
    MidBlock,
    Upsample,
    repeat_up,
    residual_blocks,
)


class UpBlock(nn.Module):
    """Wan 2.1: residual blocks, then an upsampling that also halves the width."""

    def __init__(self, in_width: int, out_width: int, depth: int, space: bool, time: bool) -> None:
        super().__init__()
        self.resnets = residual_blocks(in_width, out_width, depth)
        self.upsamplers = nn.ModuleList(
            [Upsample(out_width, out_width // 2, time)] if space else []
        )

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in, t, h, w] -> [B, out or out/2, t', h', w'] at the block's own strides."""
        for block in (*self.resnets, *self.upsamplers):
            x = block(x, chunk)
        return x


class ResidualUpBlock(nn.Module):
    """Wan 2.2: residual blocks and an upsampling, around which the repeated input is added.

    x --+-- resnets -- upsampler --(+)--
        +------ repeat_up ---------+          (neither in the last block)
    """

    def __init__(self, in_width: int, out_width: int, depth: int, space: bool, time: bool) -> None:
        super().__init__()
        self.grow = (2 if time else 1, 2)
        self.resnets = residual_blocks(in_width, out_width, depth)
        self.upsampler = Upsample(out_width, out_width, time) if space else None

    def forward(self, x: Tensor, chunk: Chunk) -> Tensor:
        """[B, in, t, h, w] -> [B, out, t', h', w'] at the block's own strides."""
        y = x
        for block in self.resnets:
            y = block(y, chunk)
        if self.upsampler is None:
            return y
        y = self.upsampler(y, chunk)
        return y + repeat_up(x, y.shape[1], *self.grow, first=chunk.first)


class Decoder(nn.Module):
    """The mid block, then four stages of residual blocks with an upsampling between each two.

    widths: the width of each stage, in decoding order. depth: residual blocks of a stage.
    temporal: for each upsampling, whether it doubles the frames as well. residual: Wan 2.2's
    stages.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int],
        depth: int,
        temporal: Sequence[bool],
        residual: bool,
    ) -> None:
        super().__init__()
        stage_class = ResidualUpBlock if residual else UpBlock
        width = widths[0]
        self.conv_in = CausalConv3d(in_channels, width, 3)
        self.mid_block = MidBlock(width)
        self.up_blocks = nn.ModuleList()
        for stage, out_width in enumerate(widths):
            grows = stage < len(temporal)
            time = grows and temporal[stage]
            self.up_blocks.append(stage_class(width, out_width, depth, grows, time))
            width = out_width if residual else out_width // 2
        self.norm_out = ChannelRMSNorm(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels, 3)

    def forward(self, z: Tensor, chunk: Chunk) -> Tensor:
        """[B, C, t, h, w] -> [B, out_channels, T, H, W]."""
        x = self.conv_in(z, chunk)
        x = self.mid_block(x, chunk)
        for block in self.up_blocks:
            x = block(x, chunk)
        return self.conv_out(F.silu(self.norm_out(x)), chunk)
