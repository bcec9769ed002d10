"""What became of chunks that came late: counts of one episode, which add up to those of all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..policy.seams import SeamSums


@dataclass(frozen=True)
class EpisodeTiming:
    """Counts of an episode of `wamkit eval --real-time`, or of several."""

    chunks: int = 0
    steps: int = 0
    """Executed, with those in which the robot stood still."""
    idle_steps: int = 0
    """Steps in which the robot stood still, because no action was planned."""
    delay_sum: int = 0
    """Steps between each observation and the first action that it decided, together."""
    delay_max: int = 0
    largest_jump: float = 0.0
    """The largest change of the next action by a new chunk, over all dimensions."""
    seams: SeamSums = field(default_factory=SeamSums)
    """Jump and jerk where one chunk follows another, and elsewhere."""

    def __add__(self, other: EpisodeTiming) -> EpisodeTiming:
        """Of both."""
        return EpisodeTiming(
            self.chunks + other.chunks,
            self.steps + other.steps,
            self.idle_steps + other.idle_steps,
            self.delay_sum + other.delay_sum,
            max(self.delay_max, other.delay_max),
            max(self.largest_jump, other.largest_jump),
            self.seams + other.seams,
        )

    def summary(self) -> dict[str, Any]:
        """Plain data for a result."""
        return {
            "delay_steps": {"mean": self.delay_sum / max(self.chunks, 1), "max": self.delay_max},
            "chunks": self.chunks,
            "steps": self.steps,
            "idle_steps": self.idle_steps,
            "largest_jump": self.largest_jump,
            "seams": asdict(self.seams.smoothness),
        }


def add_timings(found: Iterable[EpisodeTiming | None]) -> EpisodeTiming:
    """Of all episodes together; None has no chunks that came late."""
    return sum((each for each in found if each is not None), EpisodeTiming())
