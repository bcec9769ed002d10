"""How smoothly one action chunk follows another: jumps and jerk at the seam.

    executed   ... a a a | n n n ...     a: of the chunk before, n: of the next one
                         seam

A policy that ignores the chunk before may go on with another one of several good plans, and the
robot is torn from one to the other. Within a chunk the same quantities say what is normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    found = [_changes(actions, starts, control_hz, deltas) for actions, starts in runs]
    jump, within, jerk, inside = (
        _mean(np.concatenate([run[i] for run in found])) if found else 0.0 for i in range(4)
    )
    return Smoothness(jump, within, jerk, inside, sum(len(run[0]) for run in found))


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


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else 0.0
