"""What was measured of a system, and the goals it is held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from wamkit.bench import Report
from wamkit.policy.run_mode import captures

BASELINE = "plain, joined cache"
"""The baseline that a goal speaks of: dense masks, eager, a joined cache, nothing hoisted."""


@dataclass(frozen=True)
class Stage:
    """A part of a chunk, and what it takes at least on this device."""

    ms: float
    floor_ms: float

    @property
    def times_floor(self) -> float:
        """How many times the floor it takes."""
        return self.ms / self.floor_ms


@dataclass(frozen=True)
class Measured:
    """One system run one way."""

    system: str
    way: str  # a mode, or how it is written plainly
    network: Stage  # latents to normalized actions: prefill and all steps
    difference: float  # of its actions, relative
    of: str  # from what they differ
    prefill: Stage | None = None
    steps: Stage | None = None  # all of them
    chunk: Stage | None = None  # images to actions in physical units
    report: Report | None = None  # of whole chunks; None for what is written plainly


@dataclass(frozen=True)
class Goal:
    """How fast a system is to be where its chunks are recorded."""

    system: str
    what: Literal["prefill", "steps", "network", "chunk", "baseline"]
    limit: float
    """Times the floor; of a chunk milliseconds; of the baseline how many times it takes longer."""

    def __str__(self) -> str:
        if self.what == "baseline":
            return f"{self.system}, the baseline takes longer, at least {self.limit:g}x"
        if self.what == "chunk":
            return f"{self.system}, a chunk, under {self.limit:g} ms"
        what = {"network": "prefill and steps", "steps": "all steps"}.get(self.what, self.what)
        return f"{self.system}, {what}, within {self.limit:g}x of the floor"

    def judge(self, one: Measured, found: Sequence[Measured]) -> tuple[bool, str] | None:
        """Whether a way meets the goal, and its figures; None if that was not measured."""
        if self.what == "baseline":
            for other in found:
                if (other.system, other.way) == (self.system, BASELINE):
                    ratio = other.network.ms / one.network.ms
                    text = f"{ratio:.2f}x: {other.network.ms:.2f} and {one.network.ms:.2f} ms"
                    return ratio >= self.limit, text
            return None
        stage: Stage | None = getattr(one, self.what)
        if stage is None:
            return None
        text = f"{stage.times_floor:.2f}x: {stage.ms:.2f} ms, floor {stage.floor_ms:.2f} ms"
        if self.what == "chunk":
            return stage.ms < self.limit, text
        return stage.times_floor <= self.limit, text


GOALS = (
    Goal("fastwam", "prefill", 1.5),
    Goal("fastwam", "steps", 1.5),
    Goal("fastwam", "baseline", 5.0),
    Goal("fastwam_joint", "network", 1.5),
    Goal("fastwam_idm", "network", 1.5),
    Goal("efficient_wam", "chunk", 10.0),
    Goal("image_wam_4b", "chunk", 25.0),
)


def recorded(found: Sequence[Measured], system: str) -> list[Measured]:
    """The ways in which chunks of a system were recorded and replayed."""
    return [one for one in found if one.system == system and captures(one.way)]


def missed(one: Measured, found: Sequence[Measured]) -> list[Goal]:
    """The goals that a recorded way does not meet."""
    if one not in recorded([one], one.system):
        return []
    goals = [goal for goal in GOALS if goal.system == one.system]
    return [goal for goal in goals if (message := goal.judge(one, found)) and not message[0]]


def verdicts(found: Sequence[Measured]) -> Iterator[str]:
    """A table of the goals of all systems among `found`, met or missed, with figures."""
    yield "| goal | mode | found | |"
    yield "|---|---|---|---|"
    systems = {one.system for one in found}
    for goal in GOALS:
        if goal.system not in systems:
            continue
        message = [(one.way, goal.judge(one, found)) for one in recorded(found, goal.system)]
        for way, verdict in message:
            if verdict is not None:
                yield f"| {goal} | {way} | {verdict[1]} | {'met' if verdict[0] else 'missed'} |"
        if not any(verdict for _, verdict in message):
            yield f"| {goal} | - | - | not measured |"


def best(found: Sequence[Measured], system: str) -> Measured | None:
    """The fastest of wamkit's own ways with a system, from latents to normalized actions."""
    ours = [one for one in found if one.system == system and one.report is not None]
    return min(ours, key=lambda one: one.network.ms, default=None)
