"""A tiny image autoencoder: images to latents, one by one, and back.

Letters as in `wamkit.interfaces.types`; a clip of T images is T latents that know nothing of each
other. Source: `taesd.py` in github.com/madebyollin/taesd (MIT); names and shapes are those of
diffusers' `AutoencoderTiny`. Its latents are those FLUX.1 denoises (`scaling_factor` is 1 and
`shift_factor` 0 in huggingface.co/madebyollin/taef1): what the VAE `flux1` gives after its shift
and scale.
"""

from __future__ import annotations

from torch import Tensor, nn

from .blocks import Block, conv, squash

CHANNELS = 16
PUBLISHED = 64
TINY = 6


class Layers(nn.Module):
    """Layers in a row, under the name that diffusers gives them."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def encoder(width: int) -> Layers:
    """Images [N, 3, H, W] in [0, 1] to latents [N, C, h, w]."""
    layers: list[nn.Module] = [conv(3, width), Block(width)]
    for _ in range(3):
        layers += [conv(width, width, stride=2, bias=False), *(Block(width) for _ in range(3))]
    return Layers([*layers, conv(width, CHANNELS)])


def decoder(width: int) -> Layers:
    """The reverse, for squashed latents; images leave [0, 1] a little."""
    layers: list[nn.Module] = [conv(CHANNELS, width), nn.ReLU()]
    for _ in range(3):
        layers += [*(Block(width) for _ in range(3))]
        layers += [nn.Upsample(scale_factor=2), conv(width, width, bias=False)]
    return Layers([*layers, Block(width), conv(width, 3)])


class ImageAutoencoder(nn.Module):
    """`VAE` for images whose latents are neither shifted nor scaled."""

    channels = CHANNELS
    stride = (1, 8, 8)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encoder = encoder(width)
        self.decoder = decoder(width)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, T, H, W] in [-1, 1] to latents [B, C, T, h, w].

        Raises ValueError if H or W is no multiple of the stride.
        """
        expected = "expected [B, 3, T, H, W], H and W multiples of 8"
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"found pixels of shape {list(pixels.shape)}; {expected}")
        if pixels.shape[3] % 8 or pixels.shape[4] % 8:
            raise ValueError(
                f"found pixels with H = {pixels.shape[3]}, W = {pixels.shape[4]}; {expected}"
            )
        z = self.encoder((pixels.transpose(1, 2).flatten(0, 1) + 1) / 2)
        return z.unflatten(0, (pixels.shape[0], -1)).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] to pixels [B, 3, T, H, W], clamped to [-1, 1].

        Raises ValueError if z has another number of axes or channels.
        """
        if z.ndim != 5 or z.shape[1] != self.channels:
            raise ValueError(
                f"found latents of shape {list(z.shape)}; expected [B, {self.channels}, T, h, w]"
            )
        x = self.decoder(squash(z.transpose(1, 2).flatten(0, 1))) * 2 - 1
        return x.clamp(-1, 1).unflatten(0, (z.shape[0], -1)).transpose(1, 2)
