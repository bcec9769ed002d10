"""How smoothly one action chunk follows another: jumps and jerk at the seam.

    executed   ... a a a | n n n ...     a: of the chunk before, n: of the next one
                         seam

A policy that ignores the chunk before may go on with another one of several good plans, and the
robot is torn from one to the other. Within a chunk the same quantities say what is normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.prefix import timing_fault

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Smoothness:
    """Jump and jerk at the seams of a run of actions, next to those within chunks.

    Each is the mean over seams, or over all other places, of the norm over dimensions.
    """

    jump: float
    """Mean norm of the first difference at a seam, in units of actions."""
    jump_within: float
    """The same within chunks."""
    jerk: float
    """Mean over seams of the largest norm of a third difference that spans the seam, in units of
    actions times the cube of the control rate."""
    jerk_within: float
    """Mean norm of third differences that span no seam."""
    seams: int
    """How many there are."""

    @property
    def jump_ratio(self) -> float:
        """The jump at a seam in units of that within chunks; 1 is seamless."""
        return self.jump / self.jump_within if self.jump_within else float("inf")


@dataclass(frozen=True)
class SeamSums:
    """Sums of what `Smoothness` has means of, so that several runs are as one."""

    totals: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0)
    """Jump at seams and within chunks, jerk at seams and within."""
    counts: tuple[int, ...] = (0, 0, 0, 0)
    """Summands of each total."""

    def __add__(self, other: SeamSums) -> SeamSums:
        """Those of both runs."""
        totals = tuple(a + b for a, b in zip(self.totals, other.totals, strict=True))
        counts = tuple(a + b for a, b in zip(self.counts, other.counts, strict=True))
        return SeamSums(totals, counts)

    @property
    def smoothness(self) -> Smoothness:
        """The means; 0 where there is nothing."""
        pairs = zip(self.totals, self.counts, strict=True)
        jump, jump_within, jerk, jerk_within = (
            total / count if count else 0.0 for total, count in pairs
        )
        return Smoothness(jump, jump_within, jerk, jerk_within, self.counts[0])


class SeamMeter:
    """Measures the seams of a run while it is executed, action after action.

    Args:
        control_hz: Actions in a second, which scales the jerk.
        deltas: Dimensions that are differences, as for `measure_seams`.
    """

    def __init__(self, control_hz: float = 1.0, deltas: Sequence[int] = ()) -> None:
        self.control_hz, self.deltas = control_hz, list(deltas)
        self._done = SeamSums()
        self._last: Array | None = None
        self._targets: list[Array] = []  # the newest 4
        self._seams: list[tuple[int, list[float]]] = []  # age in actions, jerks that span it

    @property
    def sums(self) -> SeamSums:
        """Of all actions so far."""
        return reduce(SeamSums.__add__, map(_seam_jerk, self._seams), self._done)

    def pause(self) -> None:
        """Nothing is executed for a while: the next action continues none."""
        self._done, self._last, self._targets, self._seams = self.sums, None, [], []

    def add(self, action: Array, *, begins: bool) -> None:
        """An action [A] is executed; `begins`: it is the first of a new chunk."""
        x = np.array(action, float)
        if self._last is None:
            self._last, self._targets = x, [x]
            return
        self._done += _one_sum(0 if begins else 1, float(np.linalg.norm(x - self._last)))
        target = x.copy()
        target[self.deltas] += self._targets[-1][self.deltas]
        self._last, self._targets = x, [*self._targets[-3:], target]
        self._seams = [(age + 1, jerks) for age, jerks in self._seams]
        self._done = reduce(
            SeamSums.__add__, (_seam_jerk(seam) for seam in self._seams if seam[0] > 2), self._done
        )
        self._seams = [seam for seam in self._seams if seam[0] <= 2] + [(0, [])] * begins
        if len(self._targets) < 4:
            return
        third = np.diff(np.stack(self._targets), n=3, axis=0)[0]
        jerk = float(np.linalg.norm(third)) * self.control_hz**3
        if not self._seams:
            self._done += _one_sum(3, jerk)
        self._seams = [(age, [*jerks, jerk]) for age, jerks in self._seams]


def _one_sum(which: int, value: float) -> SeamSums:
    """A single summand of one of the four totals."""
    at = [int(i == which) for i in range(4)]
    return SeamSums(tuple(value * i for i in at), tuple(at))


def _seam_jerk(seam: tuple[int, list[float]]) -> SeamSums:
    """The jerk of a seam: the largest of all that span it, if there are any."""
    return _one_sum(2, max(seam[1])) if seam[1] else SeamSums()


def measure_seams(
    actions: Array,
    starts: Sequence[int],
    control_hz: float = 1.0,
    deltas: Sequence[int] = (),
) -> Smoothness:
    """Jump and jerk of executed actions.

    Args:
        actions: All that was executed [T, A].
        starts: Indices of actions that are the first of a new chunk, each from 1 to T - 1.
        control_hz: Actions in a second, which scales the jerk.
        deltas: Dimensions that are differences of targets: a jump is one of the difference, as if
            of a velocity, and the jerk is that of their sum.

    Raises:
        ValueError: A start is no place between two actions, or actions have not two axes.
    """
    return measure_runs([(actions, starts)], control_hz, deltas)


def measure_runs(
    runs: Iterable[tuple[Array, Sequence[int]]],
    control_hz: float = 1.0,
    deltas: Sequence[int] = (),
) -> Smoothness:
    """Jump and jerk of several runs of actions, each with its starts, as of one."""
    found = (sum_seams(actions, starts, control_hz, deltas) for actions, starts in runs)
    return reduce(SeamSums.__add__, found, SeamSums()).smoothness


def sum_seams(
    actions: Array,
    starts: Sequence[int],
    control_hz: float = 1.0,
    deltas: Sequence[int] = (),
) -> SeamSums:
    """The sums of one run; arguments and errors are those of `measure_seams`."""
    found = _changes(actions, starts, control_hz, deltas)
    return SeamSums(tuple(float(x.sum()) for x in found), tuple(len(x) for x in found))


def _changes(
    actions: Array, starts: Sequence[int], control_hz: float, deltas: Sequence[int]
) -> tuple[Array, Array, Array, Array]:
    """Of one run: jumps at seams and elsewhere, largest jerk over each seam, jerk within."""
    x = np.asarray(actions, float)
    if x.ndim != 2:
        raise ValueError(f"actions are {list(x.shape)}; expected [T, A]")
    if wrong := [start for start in starts if not 0 < start < len(x)]:
        raise ValueError(f"a chunk begins at {wrong[0]}; expected 1 to {len(x) - 1}")
    jump = np.linalg.norm(np.diff(x, axis=0), axis=1)  # [T - 1], from i to i + 1
    at = np.zeros(len(jump), bool)
    at[[start - 1 for start in starts]] = True
    targets = x.copy()
    targets[:, list(deltas)] = x[:, list(deltas)].cumsum(axis=0)
    third = np.diff(targets, n=3, axis=0)  # [T - 3, A], of i .. i + 3
    jerk = np.linalg.norm(third, axis=1) * control_hz**3
    spans = [_span(jerk, start) for start in starts]
    inside = np.ones(len(jerk), bool)
    for start in starts:
        inside[max(0, start - 3) : start] = False
    return (
        jump[at],
        jump[~at],
        np.array([span.max() for span in spans if len(span)]),
        jerk[inside],
    )


def executed_run(chunks: list[Array], executed: int, delay: int = 0) -> tuple[Array, list[int]]:
    """What a robot makes of chunks that follow each other, and where each new one begins.

    Every chunk [H, A] is asked for after `executed` actions of the one before, and comes `delay`
    actions later: these are still the old chunk's, though the new one holds them too. Raises
    ValueError unless delay <= executed <= H - delay.
    """
    if (wrong := timing_fault(delay, executed, min(map(len, chunks)))) is not None:
        raise ValueError(wrong)
    parts: list[Array] = [chunks[0][: executed + delay]]
    starts = []
    for chunk in chunks[1:]:
        starts.append(sum(len(part) for part in parts))
        parts.append(chunk[delay : executed + delay])
    return np.concatenate(parts), starts


def _span(jerk: Array, start: int) -> Array:
    """Third differences that span the seam before action `start`."""
    return jerk[max(0, start - 3) : start]
