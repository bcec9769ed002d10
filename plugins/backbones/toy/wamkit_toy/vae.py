"""A VAE without weights: blocks of pixels become channels, and come back bit for bit.

images  0 | 1 2 3 4 | 5 6 7 8      the first image is a latent by itself: it stands in all
latents   0 |    1    |    2         time channels of latent 0, and decoding takes the last one
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PixelShuffle(nn.Module):
    """Space and time to channels, for any stride (t, h, w); C = 3 * t * h * w.

    Values are not scaled: latents lie in [-1, 1] like the pixels, so their variance is below 1.
    """

    def __init__(self, stride: tuple[int, int, int]) -> None:
        super().__init__()
        t, h, w = stride
        self.stride = stride
        self.channels = 3 * t * h * w

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 1 + (T - 1) t, H, W] in [-1, 1] to latents [B, C, T, H / h, W / w].

        Raises ValueError for any other shape.
        """
        t, h, w = self.stride
        expected = (
            f"expected [B, 3, T, H, W] with T = 1 + {t}k, "
            f"H a multiple of {h} and W a multiple of {w}"
        )
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"found pixels of shape {list(pixels.shape)}; {expected}")
        frames, height, width = pixels.shape[2:]
        if frames < 1 or (frames - 1) % t or height % h or width % w:
            raise ValueError(
                f"found pixels with T = {frames}, H = {height}, W = {width}; {expected}"
            )
        first = pixels[:, :, :1].expand(-1, -1, t - 1, -1, -1)  # image 0 fills the first block
        x = torch.cat([first, pixels], 2)
        x = x.unflatten(4, (-1, w)).unflatten(3, (-1, h)).unflatten(2, (-1, t))
        return x.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)  # from [B, 3, T, t, H, h, W, w]

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, T, H, W] to pixels [B, 3, 1 + (T - 1) t, H h, W w].

        Raises ValueError if z has another number of axes or channels.
        """
        t, h, w = self.stride
        if z.ndim != 5 or z.shape[1] != self.channels:
            raise ValueError(
                f"found latents of shape {list(z.shape)}; expected [B, {self.channels}, T, H, W]"
            )
        x = z.unflatten(1, (3, t, h, w))  # [B, 3, t, h, w, T, H, W]
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return x[:, :, t - 1 :]
