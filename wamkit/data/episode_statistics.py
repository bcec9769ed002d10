"""Statistics of an episode in LeRobot's form, and of several episodes together.

Facts of `lerobot/datasets/compute_stats.py` at huggingface/lerobot, version 0.6.1:

- the quantile q of n rows is the least value that at least q * n rows do not exceed. LeRobot looks
  it up in a histogram of 5,000 bins, so its own is off by up to 1/5,000 of the range
- of images, at least 100 frames (all if there are fewer), frames ** 0.75 and at most 10,000, spread
  evenly; one with a side of 300 pixels or more is thinned; each channel by itself, from 0 to 1
- together: minimum, maximum, mean and standard deviation are those of all rows; a quantile, which
  does not follow from those of the parts, is their mean weighted by counts
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
LEAST_FRAMES, MOST_FRAMES = 100, 10_000  # of an episode whose images are sampled
LARGE, THINNED = 300, 150  # pixels of the longer side: from here on thinned, and to about how many
LEVELS = 256

Statistics = dict[str, NDArray[Any]]
"""min, max, mean, std, count and `QUANTILES` -> values: [size], of images [channels, 1, 1], of
`count` [1]."""


def value_statistics(values: NDArray[Any]) -> Statistics:
    """Compute statistics of values [frames, size] per dimension; `count` is the frames."""
    rows = np.asarray(values, np.float64)
    ordered = np.sort(rows, axis=0)
    found = {"min": ordered[0], "max": ordered[-1], "mean": rows.mean(0), "std": rows.std(0)}
    found["count"] = np.array([len(rows)])
    return found | {name: ordered[_rank(q, len(rows)) - 1] for name, q in QUANTILES.items()}


def histogram(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Count the levels of each channel of an image [height, width, channels]: [channels, 256].

    Large images are thinned as LeRobot does.
    """
    height, width, channels = image.shape
    if max(height, width) >= LARGE:
        every = (width if width > height else height) // THINNED
        image = image[::every, ::every]
    flat = image.reshape(-1, channels)
    counts = [np.bincount(flat[:, c], minlength=LEVELS) for c in range(channels)]
    return np.stack(counts).astype(np.int32)


def sampled_frames(frames: int) -> list[int]:
    """Return the frames of an episode whose images are sampled, in order."""
    count = max(min(frames, LEAST_FRAMES), min(int(frames**0.75), MOST_FRAMES))
    return [int(place) for place in np.round(np.linspace(0, frames - 1, count))]


def image_statistics(histograms: Iterable[NDArray[np.int32]]) -> Statistics:
    """Compute statistics of images from their histograms; `count` is the number of images."""
    every = list(histograms)
    counts = np.stack(every).sum(0, dtype=np.int64)  # [channels, levels]
    pixels = int(counts[0].sum())
    below = np.cumsum(counts, axis=1)
    there = counts > 0
    levels = np.arange(LEVELS) / (LEVELS - 1)
    mean = counts @ levels / pixels
    variance = counts @ levels**2 / pixels - mean**2
    found = {
        "min": levels[there.argmax(1)],
        "max": levels[LEVELS - 1 - there[:, ::-1].argmax(1)],
        "mean": mean,
        "std": np.sqrt(np.maximum(variance, 0)),
    }
    ranks = {name: _rank(q, pixels) for name, q in QUANTILES.items()}
    quantiles = {name: levels[(below >= rank).argmax(1)] for name, rank in ranks.items()}
    return {
        **{name: value.reshape(-1, 1, 1) for name, value in found.items()},
        "count": np.array([len(every)]),
        **{name: value.reshape(-1, 1, 1) for name, value in quantiles.items()},
    }


def merge_statistics(parts: Sequence[Mapping[str, Any]]) -> Statistics:
    """Merge the statistics of several episodes or data sets; quantiles only if all have them.

    Raises KeyError, TypeError or ValueError if one is not of the form of the others.
    """

    def stacked(name: str) -> NDArray[np.float64]:
        return np.stack([np.asarray(part[name], np.float64) for part in parts])

    counts, means = stacked("count").reshape(-1), stacked("mean")
    if not counts.min() > 0:
        raise ValueError(f"a count of {counts.min():g}")
    weights = (counts / counts.sum()).reshape(-1, *[1] * (means.ndim - 1))
    mean = (weights * means).sum(0)
    variance = (weights * (stacked("std") ** 2 + (means - mean) ** 2)).sum(0)
    found = {"min": stacked("min").min(0), "max": stacked("max").max(0), "mean": mean}
    found |= {"std": np.sqrt(variance), "count": np.array([int(counts.sum())])}
    shared = [name for name in QUANTILES if all(name in part for part in parts)]
    return found | {name: (weights * stacked(name)).sum(0) for name in shared}


def to_lists(statistics: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Convert arrays to lists, for JSON and tables."""
    return {name: value.tolist() for name, value in statistics.items()}


def _rank(q: float, rows: int) -> int:
    """Rank, from 1, of the row that is the quantile q."""
    return max(1, math.ceil(q * rows))
