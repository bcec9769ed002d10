"""Check that frames are 1 / fps apart, within the precision of their timestamps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from .findings import Finding
from .lerobot_format import INFO, TOLERANCE, Episode, LeRobotFolder

CARE = 2
"""Rounding errors accepted in a time: of the value, and of those it was computed from."""


@dataclass(frozen=True)
class Late:
    """The first frame that is not at its time."""

    frame: int
    time: float
    off: float
    most: float  # seconds that any frame of the episode is off
    why: str
    hint: str


def time_resolution(times: NDArray[Any]) -> NDArray[np.float64]:
    """Resolution of each time: the spacing of float32, unless it has more digits."""
    exact = np.abs(times.astype(np.float64))
    narrow = exact.astype(np.float32)
    if times.dtype == np.float64 and not (narrow == exact).all():
        return np.spacing(exact)
    return np.spacing(narrow).astype(np.float64)


def rates(fps: float) -> list[float]:
    """Rates that an fps value may mean: 29.97 is also 30000 / 1001."""
    television = round(fps) * 1000 / 1001
    return [fps, television] if 0 < abs(television - fps) < 0.005 else [fps]


def find_late_frame(
    times: NDArray[Any], fps: float, tolerance: float = TOLERANCE
) -> tuple[Late | None, float]:
    """The first frame of an episode that is off, and the time at which the episode begins.

    A time may be off by `tolerance`, and by the rounding of its dtype. Times that were added
    up in float32 drift, although no frame is missing: there every step is 1 / fps as exactly as
    float32 allows, and frames are at their indexes.
    """
    exact, period = times.astype(np.float64), 1 / fps
    if not exact.size:
        return None, 0.0
    if (unknown := np.flatnonzero(~np.isfinite(exact))).size:
        at = int(unknown[0])
        why = f"time is {exact[at]}"
        return Late(at, exact[at], np.inf, np.inf, why, "write the times again"), 0.0
    coarse = time_resolution(times)
    slack, steps = tolerance + CARE * coarse, np.diff(exact)
    back = (steps < -slack[1:]) | ((steps <= 0) & (coarse[1:] < period / 2))
    best: tuple[NDArray[np.float64], float] | None = None
    for rate in rates(fps):
        ahead = exact - np.arange(len(exact)) / rate
        start = float(np.median(ahead))
        if min(abs(start), abs(exact[0])) <= slack.max():
            start = 0.0
        off = np.abs(ahead - start)
        if (off <= slack).all() and not back.any():
            return None, start
        if not back.any() and _added_up(steps, coarse, 1 / rate):
            return None, 0.0 if abs(exact[0]) <= slack[0] else float(exact[0])
        best = best or (off, start)
    assert best is not None
    off, start = best
    most = float(off.max())
    if back.any():
        at = int(np.flatnonzero(back)[0]) + 1
        why = f"time goes from {exact[at - 1]:.4f} s to {exact[at]:.4f} s, it must rise"
        return Late(at, exact[at], float(off[at]), most, why, "record or sort it again"), start
    at = int(np.flatnonzero(off > slack)[0])
    hint = f"if that is right: --tolerance {round_up(most)}"
    rate = (len(exact) - 1) / (exact[-1] - exact[0])
    line = np.abs(exact - exact[0] - np.arange(len(exact)) / rate)
    if abs(rate - fps) > 0.01 * fps or ((line <= slack).all() and abs(rate - fps) > 1e-4 * fps):
        why = f"frames come {rate:.4g} a second, fps in {INFO} is {fps:g}"
        hint = f"set fps in {INFO} to {rate:.5g} if the times are right; or --tolerance "
        return Late(at, exact[at], float(off[at]), most, why, hint + round_up(most)), start
    why = f"time is {exact[at]:.4f} s, frame / fps is {at / fps:.4f} s"
    if start:
        why += f" after the beginning at {start:.4f} s"
    return Late(at, exact[at], float(off[at]), most, why, hint), start


def _added_up(steps: NDArray[np.float64], coarse: NDArray[np.float64], period: float) -> bool:
    """True if each time is the one before and a period, rounded."""
    fine = bool((coarse < period / 4).all())
    return fine and bool((np.abs(steps - period) <= CARE * coarse[1:]).all())


def round_up(value: float) -> str:
    """A little more than `value`, in two digits."""
    return f"{1.05 * value + 1e-4:.2g}"


def find_start_times(
    recording: LeRobotFolder,
    episodes: Sequence[Episode],
    times: Sequence[NDArray[Any]],
    tolerance: float,
) -> dict[int, float]:
    """Episode -> the time at which it begins, where that is not 0.

    Raises WamkitError if the frames of an episode are not evenly 1 / fps apart.
    """
    wrong, starts = [], {}
    for episode, mine in zip(episodes, times, strict=True):
        late, start = find_late_frame(mine, recording.fps, tolerance)
        if late is not None:
            wrong.append((episode, late))
        if start:
            starts[episode.index] = start
    if wrong:
        episode, late = wrong[0]
        others = f"; {len(wrong) - 1} more episodes are not on time" if len(wrong) > 1 else ""
        most = max(late.most for _, late in wrong)
        hint = "run `wamkit data check` on the folder"
        if np.isfinite(most):
            hint += f", or allow it: --tolerance {round_up(most)}"
        raise WamkitError(
            f"{episode.data}: episode {episode.index}, frame {late.frame} is at "
            f"{late.time:.4f} s, {late.off:.4f} s off its place{others}",
            hint,
        )
    return starts


def findings(
    times: NDArray[Any], fps: float, tolerance: float, file: str, episode: int
) -> list[Finding]:
    """Findings of `wamkit data check` about the times of an episode."""
    late, _ = find_late_frame(times, fps, tolerance)
    if late is None or not np.isfinite(late.off):  # reported for every column
        return []
    return [Finding(file, late.why, episode, late.frame, late.hint)]
