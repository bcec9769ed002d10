"""The encoders of LTX's VAEs for an image by itself, in two dimensions.

Before a clip they see its first image again, so that an image alone is the same at all times in
every layer: it is convolved once, by kernels summed over time
(`wamkit.acceleration.single_frame_conv`). Where two moments become one they are equal. The layers
are diffusers', and so is the output, up to rounding.

Letters: B images, D channels of a layer, H and W height and width at its resolution.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.single_frame_conv import single_frame_conv

EPS = 1e-8  # of the norms of diffusers' encoders, which have no weights


def convolutions(encoder: nn.Module) -> Iterator[nn.Conv3d]:
    """Every convolution of an encoder."""
    return (layer for layer in encoder.modules() if isinstance(layer, nn.Conv3d))


def moments(encoder: Any, image: Tensor) -> Tensor:
    """An image [B, 3, H, W] in [-1, 1] to mean and log variance [B, C + 1, h, w].

    The one variance of all channels is not repeated for each of them.
    """
    x = _convolve(encoder.conv_in, _patchify(image, encoder.patch_size))
    for stage in encoder.down_blocks:
        for block in stage.resnets:
            x = _residual(block, x)
        for layer in stage.downsamplers or ():
            x = _downsample(layer, x)
        if (widened := getattr(stage, "conv_out", None)) is not None:
            x = _residual(widened, x)
    for block in encoder.mid_block.resnets:
        x = _residual(block, x)
    return _convolve(encoder.conv_out, F.silu(_normalize(x)))


def _convolve(layer: Any, x: Tensor) -> Tensor:
    """By diffusers' causal convolution, or by a plain one."""
    return single_frame_conv(getattr(layer, "conv", layer), x, "repeats")


def _normalize(x: Tensor) -> Tensor:
    """Each position at a root mean square of one, computed in float32; the dtype of x out."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + EPS)).to(x.dtype)


def _residual(block: Any, x: Tensor) -> Tensor:
    """Two rounds of norm, SiLU and convolution, added to x: [B, D, H, W] to [B, D', H, W]."""
    y = _convolve(block.conv1, F.silu(_normalize(x)))
    y = _convolve(block.conv2, F.silu(_normalize(y)))
    if block.norm3 is not None:
        x = block.norm3(x.movedim(1, -1)).movedim(-1, 1)
    return y + (x if block.conv_shortcut is None else _convolve(block.conv_shortcut, x))


def _downsample(layer: Any, x: Tensor) -> Tensor:
    """By a convolution with strides, or by one whose cells are folded into channels.

    The result is added to the means of as many folded channels of x.
    """
    if not hasattr(layer, "group_size"):
        return _convolve(layer, x)
    means = _fold(x, layer.stride).unflatten(1, (-1, layer.group_size)).mean(2)
    return _fold(_convolve(layer.conv, x), layer.stride) + means


def _fold(x: Tensor, stride: tuple[int, int, int]) -> Tensor:
    """Cells of time x rows x columns to channels: [B, D, H, W] to [B, D t h w, H / h, W / w]."""
    t, h, w = stride
    cells = x.unflatten(3, (-1, w)).unflatten(2, (-1, h)).permute(0, 1, 3, 5, 2, 4)
    return cells[:, :, None].expand(-1, -1, t, -1, -1, -1, -1).flatten(1, 4)


def _patchify(image: Tensor, patch: int) -> Tensor:
    """Squares of pixels to channels, columns before rows: [B, 3, H, W] to [B, 3 p p, ...]."""
    squares = image.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return squares.permute(0, 1, 5, 3, 2, 4).flatten(1, 3)
