"""What a VAE's encoding costs, as a polynomial of height, width and latent frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...config.parts import VAEConfig
from ...policy.clips import vae_dtype
from ...policy.cost import Counter, without_weights
from .solving import Design

ENCODING = ("1", "H", "W", "HW", "HWHW", "T", "T H", "T W", "T HW", "T HWHW")
"""Of T latent frames of images H x W pixels: sizes in steps of the VAE's stride."""
POINTS = (
    *((1, 2, 2), (1, 2, 3), (1, 3, 2), (1, 4, 5), (1, 6, 4)),
    *((2, 2, 2), (2, 2, 3), (2, 3, 2), (2, 4, 5), (2, 6, 4), (3, 4, 4)),
)


def encoding(config: VAEConfig) -> dict[str, Any]:
    """Coefficients of ENCODING of operations and bytes; "unsolved" if they are no polynomial."""
    with torch.device("meta"):
        vae = without_weights(config).build()
    stride, dtype, spent = config.stride, vae_dtype(vae), []
    for frames, rows, columns in POINTS:
        images = 1 + (frames - 1) * stride[0]
        shape = (1, 3, images, 8 * rows * stride[1], 8 * columns * stride[2])
        with torch.no_grad(), Counter() as counter:
            vae.encode(torch.zeros(shape, dtype=dtype, device="meta"))
        spent.append((counter.operations, counter.bytes))
    design = Design([row(frames, 8 * h, 8 * w) for frames, h, w in POINTS])
    found: dict[str, Any] = {"unsolved": []}
    for place, kind in enumerate(("operations", "bytes")):
        solved = design.solve([pair[place] for pair in spent])
        if solved is None:
            found["unsolved"].append(kind)
            solved = Design([row(f, 8 * h, 8 * w) for f, h, w in POINTS[:10]]).solve(
                [pair[place] for pair in spent[:10]]
            )
        found[kind] = [float(x) for x in solved or ()]
    return found


def row(frames: int, rows: int, columns: int) -> Sequence[int]:
    """The terms of ENCODING."""
    area = rows * columns
    one = [1, rows, columns, area, area * area]
    return [*one, *(frames * x for x in one)]
