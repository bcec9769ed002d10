"""The bilinear resize of 8-bit images by OpenCV, whose fixed-point arithmetic decides the last bit.

Weights have 11 bits. Rows keep the products with theirs; columns lose four bits before they are
weighed and sixteen afterwards, so that a value is up to 0.75 levels off the exact one.
"""

from __future__ import annotations

import torch
from torch import Tensor

ONE = 1 << 11
"""A weight of 1."""


def resize_by_opencv(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Return what `cv2.resize` (INTER_LINEAR) makes of 8-bit images.

    Args:
        image: [..., h, w] uint8.
        size: Height and width to resize to.

    Returns:
        [..., height, width] uint8.
    """
    height, width = image.shape[-2:]
    left, right, near, far = _neighbors(width, size[1], image.device, clamp=True)
    wide = image.to(torch.int64)
    rows = wide[..., left] * near + wide[..., right] * far
    above, below, near, far = _neighbors(height, size[0], image.device, clamp=False)
    upper = (rows[..., above, :] >> 4) * near[:, None] >> 16
    lower = (rows[..., below, :] >> 4) * far[:, None] >> 16
    return ((upper + lower + 2) >> 2).clamp(0, 255).to(torch.uint8)


def _neighbors(
    count: int, made: int, device: torch.device, *, clamp: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """For each of `made` values the two of `count` around it, and their weights, [made] each.

    Beyond an edge stands its value once more; with `clamp` it has all of the weight.
    """
    middle = torch.arange(made, dtype=torch.float64, device=device) + 0.5
    place = (middle * (1 / (made / count)) - 0.5).float()
    first = place.floor()
    share = place - first
    index = first.to(torch.int64)
    if clamp:
        share = torch.where((index < 0) | (index >= count - 1), 0.0, share)
    near, far = (((x * ONE).round()).to(torch.int64) for x in (1 - share, share))
    return index.clamp(0, count - 1), (index + 1).clamp(0, count - 1), near, far
