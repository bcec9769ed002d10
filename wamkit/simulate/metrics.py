"""Evaluation metrics: success rate with its confidence interval, returns, latencies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from .episodes import STAGES, Rollout

Z95 = 1.959963984540054  # of a normal distribution, 95 % within plus and minus this


def wilson(successes: int, attempts: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a success rate (Wilson, 1927), 95 % by default.

    Unlike the normal approximation it is meaningful for 0 or all successes too.
    """
    rate = successes / attempts
    scale = 1 + z * z / attempts
    center = (rate + z * z / (2 * attempts)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / attempts + z * z / (4 * attempts**2))
    low = 0.0 if successes == 0 else center - half
    high = 1.0 if successes == attempts else center + half
    return low, high


def summary(attempts: Sequence[Rollout]) -> dict[str, Any]:
    """Success, return and length of the episodes, as plain data."""
    successes = sum(rollout.success for rollout in attempts)
    solved = [rollout.steps for rollout in attempts if rollout.success]
    return {
        "episodes": len(attempts),
        "successes": successes,
        "success_rate": successes / len(attempts),
        "interval_95": list(wilson(successes, len(attempts))),
        "return": fmean(rollout.total for rollout in attempts),
        "steps": fmean(rollout.steps for rollout in attempts),
        "steps_to_success": fmean(solved) if solved else None,
        "seeds": [rollout.seed for rollout in attempts],
        "per_episode": [
            {"seed": a.seed, "success": a.success, "return": a.total, "steps": a.steps}
            for a in attempts
        ],
    }


def latencies(seconds: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Return stage -> median and 95th percentile of its latency in milliseconds."""
    return {
        stage: {
            "p50": 1000 * float(np.median(seconds[stage])),
            "p95": 1000 * float(np.quantile(seconds[stage], 0.95)),
        }
        for stage in STAGES
        if len(seconds.get(stage, ()))
    }
