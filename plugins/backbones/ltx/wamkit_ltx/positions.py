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

STRIDE = 8, 32, 32  # pictures, rows and columns of pixels in a latent
EXTENT = 20.0, 2048.0, 2048.0  # seconds, rows and columns that count as 1
THETA = 10_000.0


def first_picture(times: Tensor, *, causal: bool) -> Tensor:
    """The picture with which the latent at `times` [T] begins, float32.

    `causal`: the first latent is one picture by itself, so that the others begin earlier.
    """
    pictures = STRIDE[0] * times.float()
    return (pictures + 1 - STRIDE[0]).clamp(min=0) if causal else pictures


def lattice(seconds: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Coordinates [T, h, w, 3] as fractions of the extent, from seconds [T] and pixels [h], [w]."""
    axes = (axis / extent for axis, extent in zip((seconds, rows, columns), EXTENT, strict=True))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def frequencies(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """width // 6 frequencies, float32, computed in `dtype`: in it the highest ones differ."""
    powers = torch.linspace(0, 1, width // 6, dtype=dtype, device=device)
    return (THETA**powers * math.pi / 2).float()


def turns(places: Tensor, frequency: Tensor, heads: int, width: int) -> tuple[Tensor, Tensor]:
    """cos and sin [H, S, E / 2] float32 for places [T, h, w, 3] and frequencies [F]."""
    angles = (places.flatten(0, 2).unsqueeze(-1) * 2 - 1) * frequency  # [S, 3, F]
    angles = angles.transpose(1, 2).flatten(1)  # [S, 3 F]
    angles = F.pad(angles, (width // 2 - angles.shape[1], 0))  # [S, D / 2]
    angles = angles.unflatten(1, (heads, -1)).transpose(0, 1)
    return angles.cos(), angles.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, E] with numbers i and i + E / 2 turned by angles of cos, sin [H, S, E / 2]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)
