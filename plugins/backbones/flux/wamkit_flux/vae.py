"""The image VAEs of FLUX.1 and FLUX.2: images to normalized latents, one by one, and back.

Letters as in `wamkit.interfaces.types`; a clip of T images is T latents that know nothing of each
other. Source: `src/flux2/autoencoder.py` in github.com/black-forest-labs/flux2 and
`src/flux/modules/autoencoder.py` in github.com/black-forest-labs/flux (Apache-2.0). Names and
shapes are those of diffusers' `AutoencoderKLFlux2` and `AutoencoderKL`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from .vae_blocks import Decoder, Encoder


@dataclass(frozen=True)
class Sizes:
    """Sizes of the published VAE or of the one for tests."""

    widths: tuple[int, ...]
    """Width of each stage, from the pixels down."""
    depth: int
    """Residual blocks of an encoder stage; a decoder stage has one more."""
    groups: int
    """Groups of the group norms."""


PUBLISHED = Sizes((128, 256, 512, 512), 2, 32)
TINY = Sizes((4, 8, 8, 8), 1, 4)


class ImageAutoencoder(nn.Module, ABC):
    """`VAE` for images: the posterior mean, shifted and scaled to about unit variance."""

    latent: ClassVar[int]
    """Channels between encoder and decoder."""
    channels: ClassVar[int]
    stride: ClassVar[tuple[int, int, int]]

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.encoder = Encoder(sizes.widths, sizes.depth, sizes.groups, self.latent)
        self.decoder = Decoder(sizes.widths, sizes.depth, sizes.groups, self.latent)

    @abstractmethod
    def normalize(self, moments: Tensor) -> Tensor:
        """Convert the moments of the encoder [N, 2 latent, H/8, W/8] to latents [N, C, h, w]."""

    @abstractmethod
    def denormalize(self, z: Tensor) -> Tensor:
        """Latents [N, C, h, w] as the decoder takes them, [N, latent, H/8, W/8]."""

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, T, H, W] in [-1, 1] to latents [B, C, T, h, w].

        Raises ValueError if H or W is no multiple of the stride.
        """
        _, rows, columns = self.stride
        expected = f"expected [B, 3, T, H, W], H a multiple of {rows} and W of {columns}"
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"found pixels of shape {list(pixels.shape)}; {expected}")
        if pixels.shape[3] % rows or pixels.shape[4] % columns:
            raise ValueError(
                f"found pixels with H = {pixels.shape[3]}, W = {pixels.shape[4]}; {expected}"
            )
        moments = self.encoder(pixels.transpose(1, 2).flatten(0, 1))
        return self.normalize(moments).unflatten(0, (pixels.shape[0], -1)).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] to pixels [B, 3, T, H, W], clamped to [-1, 1].

        Raises ValueError if z has another number of axes or channels.
        """
        if z.ndim != 5 or z.shape[1] != self.channels:
            raise ValueError(
                f"found latents of shape {list(z.shape)}; expected [B, {self.channels}, T, h, w]"
            )
        pixels = self.decoder(self.denormalize(z.transpose(1, 2).flatten(0, 1)))
        return pixels.unflatten(0, (z.shape[0], -1)).transpose(1, 2).clamp(-1, 1)


class Flux1Autoencoder(ImageAutoencoder):
    """FLUX.1's VAE: one shift and one scale for all channels."""

    latent = 16
    channels = 16
    stride = (1, 8, 8)
    shift = 0.1159
    scale = 0.3611

    def normalize(self, moments: Tensor) -> Tensor:
        return (moments[:, : self.latent] - self.shift) * self.scale

    def denormalize(self, z: Tensor) -> Tensor:
        return z / self.scale + self.shift


class Statistics(nn.Module):
    """Running mean and variance of a batch norm, which come with the weights and never change."""

    running_mean: Tensor
    running_var: Tensor
    eps = 1e-4

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def moments(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, [C, 1, 1] each."""
        mean, std = self.running_mean.float(), (self.running_var.float() + self.eps).sqrt()
        return mean.to(dtype)[:, None, None], std.to(dtype)[:, None, None]


class Flux2Autoencoder(ImageAutoencoder):
    """FLUX.2's VAE: squares of 2 x 2 latents folded into channels, each of them normalized."""

    latent = 32
    channels = 128
    stride = (1, 16, 16)
    keep_float32 = (r"^bn\.",)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        self.quant_conv = nn.Conv2d(2 * self.latent, 2 * self.latent, 1)
        self.post_quant_conv = nn.Conv2d(self.latent, self.latent, 1)
        self.bn = Statistics(self.channels)

    def normalize(self, moments: Tensor) -> Tensor:
        z = fold(self.quant_conv(moments)[:, : self.latent])
        mean, std = self.bn.moments(z.dtype)
        return (z - mean) / std

    def denormalize(self, z: Tensor) -> Tensor:
        mean, std = self.bn.moments(z.dtype)
        return self.post_quant_conv(unfold(z * std + mean))


def fold(x: Tensor) -> Tensor:
    """[N, C, 2 h, 2 w] to [N, 4 C, h, w]; a channel's four are row by row next to each other."""
    return x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


def unfold(x: Tensor) -> Tensor:
    """The reverse of `fold`."""
    x = x.unflatten(1, (-1, 2, 2)).permute(0, 1, 4, 2, 5, 3)  # [N, C, h, 2, w, 2]
    return x.flatten(4).flatten(2, 3)


AUTOENCODERS: dict[str, Callable[[Sizes], ImageAutoencoder]] = {
    "flux1": Flux1Autoencoder,
    "flux2": Flux2Autoencoder,
}
"""Name of a VAE -> its class."""
