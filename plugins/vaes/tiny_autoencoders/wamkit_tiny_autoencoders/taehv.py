"""Tiny video autoencoders: two-dimensional convolutions and a memory of one image.

Letters as in `wamkit.interfaces.types`; t is the stride in time, s the images a layer is given.

    images  0 0 0 0 | 1 2 3 4 | 5 6 7 8      the first image stands in all t places of its group
    latents      0    |    1    |    2         (here t = 4), and decoding takes the last of them

A group of t images goes through all layers before the next one: what a block remembers of the
group before is all that is kept, so that memory does not grow with the clip and no latent depends
on a later image.

Source: `taehv.py` in github.com/madebyollin/taehv (MIT), whose names and shapes these are. Its
pixels lie in [0, 1], and its `encode_video` puts images 0 to 3 into latent 0: it fills up the
last group with the last image instead of the first group with the first one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .blocks import conv, convolutions, squash


@dataclass(frozen=True)
class Widths:
    """What differs between the published networks and those for tests."""

    encoder: int
    decoder: tuple[int, int, int, int]
    """Width of each stage from the latents up, and that of the last convolution."""


PUBLISHED = Widths(64, (256, 128, 64, 64))
TINY = Widths(4, (6, 5, 4, 4))


class Squash(nn.Module):
    """`squash` as a layer: published names count it."""

    def forward(self, z: Tensor) -> Tensor:
        return squash(z)


class MemoryBlock(nn.Module):
    """relu(x + convolutions of x and of what x was one image before)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = convolutions(2 * width, width)

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Both [N, D, h, w]."""
        return (self.conv(torch.cat([x, before], 1)) + x).relu()


class Pool(nn.Module):
    """Every `stride` images become one."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(stride * width, width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N / stride, D, h, w]; the images of a clip follow each other."""
        return self.conv(x.unflatten(0, (-1, self.stride)).flatten(1, 2))


class Grow(nn.Module):
    """Every image becomes `stride`."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, stride * width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[N, D, h, w] to [N * stride, D, h, w]."""
        return self.conv(x).unflatten(1, (self.stride, -1)).flatten(0, 1)


def encoder(channels: int, latent: int, width: int, time: tuple[int, int, int]) -> nn.Sequential:
    """`channels` of an image to `latent`; each stage halves space, and time where `time` is 2."""
    layers: list[nn.Module] = [conv(channels, width), nn.ReLU()]
    for stride in time:
        layers += [Pool(width, stride), conv(width, width, stride=2, bias=False)]
        layers += [MemoryBlock(width) for _ in range(3)]
    return nn.Sequential(*layers, conv(width, latent))


def decoder(
    latent: int, channels: int, widths: tuple[int, int, int, int], time: tuple[int, int, int]
) -> nn.Sequential:
    """The reverse; each stage doubles space, and time where `time` is 2."""
    layers: list[nn.Module] = [Squash(), conv(latent, widths[0]), nn.ReLU()]
    for (width, after), stride in zip(pairwise(widths), time, strict=True):
        layers += [MemoryBlock(width) for _ in range(3)]
        layers += [nn.Upsample(scale_factor=2), Grow(width, stride), conv(width, after, bias=False)]
    return nn.Sequential(*layers, nn.ReLU(), conv(widths[-1], channels))


def repeated(layers: nn.Sequential, x: Tensor, times: int) -> tuple[int, Tensor]:
    """An image x [N, D, h, w] that stands `times` times in a row, up to the first block.

    Equal images stay equal until then, and are computed once. Returns that block's place, and
    what it is given [N, s, D, h, w].
    """
    for place, layer in enumerate(layers):
        if isinstance(layer, MemoryBlock):
            return place, x[:, None].expand(-1, times, -1, -1, -1)
        if isinstance(layer, Pool):
            times //= layer.stride
            x = x.repeat_interleave(layer.stride, 0)
        x = layer(x)
    raise AssertionError("an encoder has blocks")


def run(layers: nn.Sequential, x: Tensor, past: dict[int, Tensor], start: int = 0) -> Tensor:
    """Images x [B, s, D, h, w] through all layers from `start` on.

    `past` is where the blocks keep their last image [B, 1, D, h, w], by place; before the first
    one it is empty, which counts as zeros.
    """
    batch, x = x.shape[0], x.flatten(0, 1)
    for place, layer in enumerate(layers[start:], start):
        if not isinstance(layer, MemoryBlock):
            x = layer(x)
            continue
        clip = x.unflatten(0, (batch, -1))
        last = past.get(place, torch.zeros_like(clip[:, :1]))
        past[place] = clip[:, -1:]
        x = layer(x, torch.cat([last, clip[:, :-1]], 1).flatten(0, 1))
    return x.unflatten(0, (batch, -1))


class VideoAutoencoder(nn.Module):
    """`VAE` whose latents are those a diffusion model denoises: nothing is shifted or scaled."""

    def __init__(
        self, channels: int, stride: tuple[int, int, int], patch: int, widths: Widths
    ) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride
        self.patch = patch
        time = 2 if stride[0] == 8 else 1  # of three halvings of time, which Wan does without
        colors = 3 * patch**2
        self.encoder = encoder(colors, channels, widths.encoder, (2, 2, time))
        self.decoder = decoder(channels, colors, widths.decoder, (time, 2, 2))

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, 1 + (T - 1) t, H, W] in [-1, 1] to latents [B, C, T, h, w].

        Raises ValueError for any other shape.
        """
        t, rows, columns = self.stride
        expected = (
            f"expected [B, 3, T, H, W] with T = 1 + {t}k, "
            f"H a multiple of {rows} and W a multiple of {columns}"
        )
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise ValueError(f"found pixels of shape {list(pixels.shape)}; {expected}")
        frames, height, width = pixels.shape[2:]
        if frames < 1 or (frames - 1) % t or height % rows or width % columns:
            raise ValueError(
                f"found pixels with T = {frames}, H = {height}, W = {width}; {expected}"
            )
        x = pixel_unshuffle((pixels.transpose(1, 2) + 1) / 2, self.patch)
        past: dict[int, Tensor] = {}
        start, first = repeated(self.encoder, x[:, 0], t)
        found = [run(self.encoder, first, past, start)]
        if frames > 1:
            found += [run(self.encoder, group, past) for group in x[:, 1:].split(t, 1)]
        return torch.cat(found, 1).transpose(1, 2)

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] to pixels [B, 3, 1 + (T - 1) t, H, W], clamped to [-1, 1].

        Raises ValueError if z has another number of axes or channels.
        """
        if z.ndim != 5 or z.shape[1] != self.channels:
            raise ValueError(
                f"found latents of shape {list(z.shape)}; expected [B, {self.channels}, T, h, w]"
            )
        past: dict[int, Tensor] = {}
        groups = [run(self.decoder, x, past) for x in z.transpose(1, 2).split(1, 1)]
        x = pixel_shuffle(torch.cat(groups, 1), self.patch)[:, self.stride[0] - 1 :]
        return (x * 2 - 1).clamp(-1, 1).transpose(1, 2)
