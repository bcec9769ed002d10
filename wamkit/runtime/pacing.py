"""A loop at a fixed rate: clocks, and how far each step was from its time."""

from __future__ import annotations

import time
from typing import Protocol

from .latency import percentile


class Clock(Protocol):
    """Time that passes."""

    def now(self) -> float:
        """Seconds since some moment; never less than before."""

    def wait_until(self, moment: float) -> None:
        """Return at `moment`, or at once if it has passed."""


class SystemClock:
    """The clock of this machine."""

    def now(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        """Sleep until then."""
        if (left := moment - time.monotonic()) > 0:
            time.sleep(left)


class SimulatedClock:
    """Time that passes only where something waits for it, so that a run is the same every time."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        """Seconds since the beginning."""
        return self.time

    def wait_until(self, moment: float) -> None:
        """Set the time to `moment`."""
        self.time = max(self.time, moment)


class Pacer:
    """Keeps a rate: `wait` returns at the beginning of each step.

    A step that was missed is left out rather than made up for: a robot that gets two actions at
    once jumps.
    """

    def __init__(self, hz: float, clock: Clock) -> None:
        self.period, self.clock = 1 / hz, clock
        self.late: list[float] = []
        """Seconds that each step began after its time."""
        self.overruns = 0
        """Steps that were missed, because one before took too long."""
        self._next: float | None = None

    def wait(self) -> None:
        """Wait for the next step; the first one begins at once."""
        now = self.clock.now()
        if self._next is None:
            self._next = now
        elif now >= self._next + self.period:
            missed = int((now - self._next) / self.period)
            self.overruns += missed
            self._next += missed * self.period
        self.clock.wait_until(self._next)
        self.late.append(max(0.0, self.clock.now() - self._next))
        self._next += self.period

    def jitter_ms(self) -> dict[str, float]:
        """Percentiles of the lateness of steps, in milliseconds."""
        late = [1000 * seconds for seconds in self.late]
        return {"p50": percentile(late, 50), "p95": percentile(late, 95), "max": max(late or [0])}
