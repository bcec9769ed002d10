"""Rotary positions of LTX: frequencies over the whole width of a token, not that of a head.

Times are seconds, rows and columns are pixels; each is taken as a fraction of 20 seconds or 2048
pixels, stretched to [-1, 1] and multiplied by F = D // 6 frequencies, from pi / 2 to
theta * pi / 2:

    D / 2 angles of a token   0 ... 0 | time row column | time row column | ...   lowest first

D need not divide by 6: the remaining channels come first and are not rotated. Angles are computed
in float32, as those the models were trained with. Source: `rope.py` and `transformer3d.py` in
github.com/Lightricks/LTX-Video, as in diffusers' `LTXVideoRotaryPosEmbed` and
`LTX2AudioVideoRotaryPosEmbed`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from wamkit.engine.layers import RotaryEmbedding

STRIDE = 8, 32, 32  # images, rows and columns of pixels in a latent
EXTENT = 20.0, 2048.0, 2048.0  # seconds, rows and columns that count as 1
THETA = 10_000.0


def first_image(times: Tensor, *, causal: bool) -> Tensor:
    """The image with which the latent at `times` [S] begins, float32.

    `causal`: the first latent is one image by itself, so that the others begin earlier. Between
    it and the second, and before it, a step in time is one image.
    """
    images = STRIDE[0] * times
    return torch.maximum(images + 1 - STRIDE[0], times) if causal else images


def fractions(seconds: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Seconds and pixels [S] as fractions of the extent [S, 3]."""
    axes = zip((seconds, rows, columns), EXTENT, strict=True)
    return torch.stack([axis / extent for axis, extent in axes], -1)


def frequencies(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """width // 6 frequencies, float32, computed in `dtype`: in it the highest ones differ."""
    powers = torch.linspace(0, 1, width // 6, dtype=dtype, device=device)
    return (THETA**powers * math.pi / 2).float()


def whole_width_rotary(
    places: Tensor, frequency: Tensor, num_heads: int, width: int, *, pairs: bool
) -> RotaryEmbedding:
    """Rotary positions [H, S, E / 2].

    Args:
        places: [S, 3] float32 fractions of the extent.
        frequency: [F] float32.
        num_heads: H, which share the width.
        width: D = H * E.
        pairs: Whether `rotate_pairs` reads them, or `rotate_halves`.
    """
    angles = (places.unsqueeze(-1) * 2 - 1) * frequency  # [S, 3, F]
    angles = angles.transpose(1, 2).flatten(1)  # [S, 3 F]
    angles = F.pad(angles, (width // 2 - angles.shape[1], 0))  # [S, D / 2]
    angles = angles.unflatten(1, (num_heads, -1)).transpose(0, 1)
    cos, sin = angles.cos(), angles.sin()
    return RotaryEmbedding(cos, sin, torch.complex(cos, sin) if pairs else None)
