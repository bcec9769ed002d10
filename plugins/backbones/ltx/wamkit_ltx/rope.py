"""Rotary positions of LTX: frequencies over the whole width of a token, not that of a head.

Times are seconds, places are pixels; each is taken as a fraction of 20 seconds or 2048 pixels,
stretched to [-1, 1] and multiplied by F = D // 6 frequencies, from pi / 2 to theta * pi / 2:

    D / 2 angles of a token   0 ... 0 | time row column | time row column | ...   lowest first

D need not divide by 6: what is left stands in front and is not turned. Source: `rope.py` and
`transformer3d.py` in github.com/Lightricks/LTX-Video, as in diffusers' `LTXVideoRotaryPosEmbed`
and `LTX2AudioVideoRotaryPosEmbed`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wamkit.interfaces.types import Frames

STRIDE = 8, 32, 32  # pictures, rows and columns of pixels in a latent
EXTENT = 20.0, 2048.0, 2048.0  # seconds, rows and columns that count as 1
THETA = 10_000.0

Turn = tuple[Tensor, Tensor]
"""cos and sin [H, S, E / 2] float32 of rotary positions."""


def places(video: Frames) -> Tensor:
    """Time, row and column of every latent [S, 3] float32, counted in latents."""
    device = video.z.device
    sides = (torch.arange(n, device=device) for n in video.z.shape[3:])
    grid = torch.meshgrid(
        *(axis.float() for axis in (video.times.to(device), *sides)), indexing="ij"
    )
    return torch.stack(grid, -1).flatten(0, 2)


def first_picture(times: Tensor, *, causal: bool) -> Tensor:
    """The picture with which the latent at `times` [S] begins, float32.

    `causal`: the first latent is one picture by itself, so that the others begin earlier. Between
    it and the second, and before it, a step in time is one picture.
    """
    pictures = STRIDE[0] * times
    return torch.maximum(pictures + 1 - STRIDE[0], times) if causal else pictures


def fractions(seconds: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Seconds and pixels [S] as fractions of the extent [S, 3]."""
    axes = zip((seconds, rows, columns), EXTENT, strict=True)
    return torch.stack([axis / extent for axis, extent in axes], -1)


def frequencies(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """width // 6 frequencies, float32, computed in `dtype`: in it the highest ones differ."""
    powers = torch.linspace(0, 1, width // 6, dtype=dtype, device=device)
    return (THETA**powers * math.pi / 2).float()


def turns(at: Tensor, frequency: Tensor, heads: int, width: int) -> Turn:
    """Of fractions of the extent [S, 3] and frequencies [F]."""
    angles = (at.unsqueeze(-1) * 2 - 1) * frequency  # [S, 3, F]
    angles = angles.transpose(1, 2).flatten(1)  # [S, 3 F]
    angles = F.pad(angles, (width // 2 - angles.shape[1], 0))  # [S, D / 2]
    angles = angles.unflatten(1, (heads, -1)).transpose(0, 1)
    return angles.cos(), angles.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, E] with numbers i and i + E / 2 turned by angles of cos, sin [H, S, E / 2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
