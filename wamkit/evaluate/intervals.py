"""Means over independent units, such as episodes, with a bootstrap interval of 95 %."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

RESAMPLES = 2000


def mean_interval(values: Sequence[float], seed: int = 0) -> dict[str, Any]:
    """`mean`, and `interval_95` of the percentile bootstrap (Efron, 1979); None for one value.

    The same values give the same interval.
    """
    array = np.asarray(values, np.float64)
    if len(array) < 2:
        return {"mean": float(array.mean()), "interval_95": None}
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[drawn].mean(1), [0.025, 0.975])
    return {"mean": float(array.mean()), "interval_95": [float(low), float(high)]}
