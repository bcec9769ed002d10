"""Latencies that were measured, as a delay in steps, and delays that are simulated."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np

from ..errors import WamkitError

CLOSE = 1e-6
"""Share of a step by which a latency may exceed a whole number of steps."""


def delay_steps(seconds: float, control_hz: float) -> int:
    """Actions that are executed until a reply after so many seconds can be used.

    Replies are taken at the beginning of a step: one after 2.1 steps is used after 3.
    """
    return max(0, ceil(seconds * control_hz - CLOSE))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of the values that `share` percent of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, ceil(share / 100 * len(values)) - 1)]


class LatencyWindow:
    """The latest latencies, and what delay the next one is likely to have.

    Args:
        size: Latencies that are kept; those before are forgotten.
        share: Percent of them that the expected one does not fall below.
    """

    def __init__(self, size: int = 20, share: float = 95) -> None:
        if size < 1 or not 0 < share <= 100:
            raise WamkitError(
                f"a window of {size} latencies and a percentile of {share}",
                "keep 1 or more, and choose a percentile above 0 and up to 100",
            )
        self.share = share
        self._kept: deque[float] = deque(maxlen=size)

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, seconds: float) -> None:
        """Count a latency."""
        self._kept.append(seconds)

    @property
    def expected(self) -> float:
        """Seconds that the next reply will hardly exceed; 0 before the first one."""
        return percentile(list(self._kept), self.share)

    def steps(self, control_hz: float) -> int:
        """The expected latency in steps."""
        return delay_steps(self.expected, control_hz)


class SimulatedDelay:
    """Seconds that pass until a reply is there, drawn one by one; the same for the same seed.

    Args:
        seconds: The delay, or the shortest and the longest one, of which all between are as likely.
        spike: Seconds that some replies take in place of it.
        every: One reply in so many is such a spike, by chance; 0 for none.
        seed: Of the draws.
    """

    def __init__(
        self,
        seconds: float | tuple[float, float],
        *,
        spike: float = 0.0,
        every: int = 0,
        seed: int = 0,
    ) -> None:
        self.low, self.high = seconds if isinstance(seconds, tuple) else (seconds, seconds)
        self.spike, self.every = spike, every
        if not 0 <= self.low <= self.high < float("inf") or spike < 0 or every < 0:
            raise WamkitError(
                f"a delay of {seconds} s with spikes of {spike} s every {every}",
                "give seconds from 0 on, the shorter ones first",
            )
        self._rng: Any = np.random.default_rng(seed)

    def draw(self) -> float:
        """The next delay in seconds."""
        usual, chance = self._rng.uniform(self.low, self.high), self._rng.random()
        return float(self.spike if self.every and chance < 1 / self.every else usual)
