"""Encoder and decoder of the FLUX image VAEs, under the parameter names of diffusers.

    image [N, 3, H, W] --4 stages, each but the last halves--> mid --> moments [N, 2 C, H/8, W/8]
    latent  [N, C, h, w] --> mid --4 stages, each but the last doubles--> image [N, 3, 8h, 8w]

Source: `src/flux2/autoencoder.py` in github.com/black-forest-labs/flux2 (Apache-2.0), in the layout
of diffusers' `AutoencoderKL`. Letters: N images, C latent channels, D width of a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """Computed in float32; the dtype of x out."""

    def __init__(self, groups: int, width: int) -> None:
        super().__init__(groups, width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, ...] to [N, D, ...]."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


class ResidualBlock(nn.Module):
    """Two rounds of norm, SiLU and convolution, added to x."""

    def __init__(self, in_width: int, out_width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(groups, in_width)
        self.conv1 = nn.Conv2d(in_width, out_width, 3, padding=1)
        self.norm2 = GroupNorm(groups, out_width)
        self.conv2 = nn.Conv2d(out_width, out_width, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(in_width, out_width, 1) if in_width != out_width else None

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] to [N, out, h, w]."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return y + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Attention(nn.Module):
    """Each position of an image attends to all of them, one head; added to x."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = GroupNorm(groups, width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N, D, h, w]."""
        y = self.group_norm(x).flatten(2).transpose(1, 2)  # [N, h w, D]
        q, k, v = (to(y).unsqueeze(1) for to in (self.to_q, self.to_k, self.to_v))
        y = self.to_out[0](F.scaled_dot_product_attention(q, k, v).squeeze(1))
        return x + y.transpose(1, 2).unflatten(2, x.shape[2:])


class MidBlock(nn.Module):
    """Residual block, attention, residual block at the lowest resolution."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResidualBlock(width, width, groups) for _ in range(2))
        self.attentions = nn.ModuleList([Attention(width, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N, D, h, w]."""
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class Downsample(nn.Module):
    """Halve height and width by a convolution with a border on the right and below only."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N, D, h / 2, w / 2]."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double height and width by repetition, then convolve."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N, D, 2 h, 2 w]."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def chain(in_width: int, out_width: int, depth: int, groups: int) -> nn.ModuleList:
    """`depth` residual blocks, the first of which changes the width."""
    widths = [in_width, *[out_width] * depth]
    return nn.ModuleList(ResidualBlock(a, b, groups) for a, b in pairwise(widths))


class DownStage(nn.Module):
    """Residual blocks of one resolution, then the way to the next lower one."""

    def __init__(
        self, in_width: int, out_width: int, depth: int, groups: int, *, last: bool
    ) -> None:
        super().__init__()
        self.resnets = chain(in_width, out_width, depth, groups)
        self.downsamplers = nn.ModuleList([] if last else [Downsample(out_width)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] to [N, out, h / 2, w / 2], or h and w in the last stage."""
        for layer in (*self.resnets, *self.downsamplers):
            x = layer(x)
        return x


class UpStage(nn.Module):
    """Residual blocks of one resolution, then the way to the next higher one."""

    def __init__(
        self, in_width: int, out_width: int, depth: int, groups: int, *, last: bool
    ) -> None:
        super().__init__()
        self.resnets = chain(in_width, out_width, depth, groups)
        self.upsamplers = nn.ModuleList([] if last else [Upsample(out_width)])

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, h, w] to [N, out, 2 h, 2 w], or h and w in the last stage."""
        for layer in (*self.resnets, *self.upsamplers):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Images to moments. `widths` are those of the stages, `depth` their residual blocks."""

    def __init__(self, widths: Sequence[int], depth: int, groups: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        last = len(widths) - 1
        self.down_blocks = nn.ModuleList(
            DownStage(a, b, depth, groups, last=i == last)
            for i, (a, b) in enumerate(pairwise([widths[0], *widths]))
        )
        self.mid_block = MidBlock(widths[-1], groups)
        self.conv_norm_out = GroupNorm(groups, widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W] to [N, 2 C, H / 8, W / 8]."""
        x = self.conv_in(x)
        for stage in self.down_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(nn.Module):
    """Latents to images. `widths` and `depth` are those of the encoder; stages are one deeper."""

    def __init__(self, widths: Sequence[int], depth: int, groups: int, channels: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(channels, widths[-1], 3, padding=1)
        self.mid_block = MidBlock(widths[-1], groups)
        last = len(widths) - 1
        self.up_blocks = nn.ModuleList(
            UpStage(a, b, depth + 1, groups, last=i == last)
            for i, (a, b) in enumerate(pairwise([widths[-1], *reversed(widths)]))
        )
        self.conv_norm_out = GroupNorm(groups, widths[0])
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """[N, C, h, w] to [N, 3, 8 h, 8 w]."""
        x = self.mid_block(self.conv_in(z))
        for stage in self.up_blocks:
            x = stage(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))
