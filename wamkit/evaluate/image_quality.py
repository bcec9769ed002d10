"""Full-reference image metrics of imagined frames against real ones, without learned weights.

PSNR and SSIM (Wang et al., 2004) as everywhere; HaarPSI (Reisenhofer et al., 2018) compares Haar
wavelet coefficients, correlates with human ratings about as well as learned distances, and works on
frames of 64 x 64. All are computed by the package piqa.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..errors import WamkitError
from ..files.install import EXTRAS, install_hint

SMALLEST = 16
"""Pixels: the window of SSIM has 11, HaarPSI looks at scales of 8 after halving the image."""


@dataclass(frozen=True)
class Metric:
    """One metric of an image pair; larger is better for all of them."""

    label: str
    unit: str
    best: float  # of two equal images


METRICS: Mapping[str, Metric] = {
    "psnr": Metric("PSNR", "dB", 80.0),
    "ssim": Metric("SSIM", "", 1.0),
    "haarpsi": Metric("HaarPSI", "", 1.0),
}


def expect_metrics() -> None:
    """Raise WamkitError unless the extra `quality` is installed."""
    if absent := [name for name in EXTRAS["quality"] if find_spec(name) is None]:
        raise WamkitError(
            f"metrics of imagined futures need {' and '.join(absent)}, not installed here",
            install_hint("quality"),
        )


def frame_quality(imagined: Tensor, real: Tensor) -> dict[str, Tensor]:
    """Metric -> its value of every frame [B, T], of clips [B, 3, T, height, width] in [-1, 1].

    Raises WamkitError if frames differ in size or are smaller than `SMALLEST` pixels.
    """
    expect_metrics()
    if imagined.shape != real.shape:
        raise WamkitError(
            f"imagined frames are {list(imagined.shape)}, real ones {list(real.shape)}",
            "compare frames of the same views, as many and as large",
        )
    if min(real.shape[-2:]) < SMALLEST:
        raise WamkitError(
            f"frames of {real.shape[-2]} x {real.shape[-1]} pixels are too small to be measured",
            f"image metrics need {SMALLEST} x {SMALLEST}: choose larger cameras.views.N.size",
        )
    batch, _, time = real.shape[:3]
    flat = [
        x.float().add(1).div(2).clamp(0, 1).movedim(2, 1).flatten(0, 1) for x in (imagined, real)
    ]
    with torch.no_grad():
        return {name: made(*flat).unflatten(0, (batch, time)) for name, made in _modules().items()}


@lru_cache(1)
def _modules() -> dict[str, Any]:
    """The modules of piqa, one value for each image of a batch."""
    import piqa

    return {
        "psnr": piqa.PSNR(reduction="none"),
        "ssim": piqa.SSIM(reduction="none"),
        "haarpsi": piqa.HaarPSI(reduction="none"),
    }
