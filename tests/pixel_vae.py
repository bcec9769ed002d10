"""A causal video autoencoder without weights, and images, for published code and for wamkit.

Latents mix with their neighbors in a row and with the frame before, so that it shows whether views
are encoded by themselves, and whether an episode is encoded as one clip.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 48


class PixelVAE(nn.Module):
    """16 x 16 pixels of 4 frames to 48 numbers."""

    channels = CHANNELS
    stride = 4, 16, 16

    def encode(self, pixels: Tensor) -> Tensor:
        """[B, 3, T, H, W] to [B, 48, 1 + (T - 1) / 4, H / 16, W / 16]."""
        small = F.avg_pool2d(pixels.transpose(1, 2).flatten(0, 1), 4)
        z = F.pixel_unshuffle(small, 4)
        z = z + 0.5 * F.pad(z, (1, 0))[..., :-1] + 0.25 * F.pad(z, (0, 1))[..., 1:]
        z = z.unflatten(0, (len(pixels), -1)).transpose(1, 2)
        weight = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=z.dtype)[:, None, None]
        groups = (z[:, :, 1:].unflatten(2, (-1, 4)) * weight).sum(3)
        z = torch.cat([z[:, :, :1], groups], 2)
        return z + 0.5 * F.pad(z, (0, 0, 0, 0, 1, 0))[:, :, :-1]

    def encode_next(self, pixels: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The latents of the next images; `past` are all images before them."""
        before = 0 if past is None else 1 + (past.shape[2] - 1) // 4
        seen = pixels if past is None else torch.cat([past, pixels], 2)
        return self.encode(seen)[:, :, before:], seen

    def decode(self, z: Tensor) -> Tensor:
        """[B, 48, t, h, w] to gray of the right shape."""
        b, _, t, h, w = z.shape
        return z.new_zeros(b, 3, 1 + 4 * (t - 1), 16 * h, 16 * w)


def patterns(count: int, view: int, height: int = 40, width: int = 72) -> Tensor:
    """Images of a camera [count, 3, height, width] uint8, which no file need hold."""
    t, c, y, x = torch.meshgrid(
        *(torch.arange(n) for n in (count, 3, height, width)), indexing="ij"
    )
    return ((37 * t + 50 * c + 91 * view + 5 * x * (y // 7 + 1) + 11 * y) % 256).to(torch.uint8)


@torch.no_grad()
def set_patterned_weights(network: nn.Module) -> None:
    """Weights that follow from their names and shapes alone, the same in any network with these."""
    for name, weight in network.state_dict().items():
        start = sum(map(ord, name)) % 97
        wave = torch.sin(start + 0.7 * torch.arange(weight.numel(), dtype=torch.float64) ** 1.1)
        fan = max(1, weight[0].numel()) if weight.ndim > 1 else 4
        offset = 1.0 if "gamma" in name else 0.0
        weight.copy_(offset + wave.view(weight.shape) / fan**0.5)
