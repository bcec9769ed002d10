"""Normalization as LeRobot's processors have it: one mode for all values of an action or a state.

Where our rule for every value gives the center and the half width of one mode of theirs, that mode
and all rows are written. Otherwise, centers and half widths are written as mean and deviation,
which gives the same values under MEAN_STD.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wamkit.config.importing import Normalized
from wamkit.config.robot import Scaling

from .lerobot import NORMALIZATION

Pairs = list[tuple[float, float]]
TINY = 1e-8
"""LeRobot's default epsilon."""


@dataclass(frozen=True)
class Rule:
    """What is written for an action or a state."""

    mode: str
    epsilon: float
    rows: Mapping[str, Sequence[float]]
    """Rows of statistics; none if there are no statistics."""
    notes: tuple[str, ...] = ()


def rule_of(rules: Sequence[Any], scaling: Scaling, normalized: Normalized | None) -> Rule:
    """The mode and the rows for values that are normalized by `rules`, one for each."""
    modes = {ours: theirs for theirs, ours in NORMALIZATION.items()}
    first = rules[0] if rules else "mean_std"
    if normalized is None:
        return Rule(modes[first], TINY, {})
    if set(rules) <= {"none"}:
        return Rule("IDENTITY", TINY, normalized.rows)
    rows = normalized.rows
    ours = list(zip(normalized.center, normalized.half, strict=True))
    if len(set(rules)) == 1 and _equal(ours, theirs_of(first, rows)):
        return Rule(modes[first], scaling.std_epsilon or TINY, rows)
    note = (
        "its normalization is none of LeRobot's modes, and written as mean and deviation; new "
        "statistics of a data set would change it."
    )
    return Rule("MEAN_STD", 0.0, {"mean": normalized.center, "std": normalized.half}, (note,))


def theirs_of(rule: str, rows: Mapping[str, Sequence[float]]) -> Pairs:
    """Center and half width of every value by a mode of LeRobot."""
    if rule == "mean_std":
        return [(m, s + TINY) for m, s in zip(rows["mean"], rows["std"], strict=True)]
    low, high = ("min", "max") if rule == "min_max" else ("q01", "q99")
    pairs = zip(rows[low], rows[high], strict=True)
    return [(a + (b - a or TINY) / 2, (b - a or TINY) / 2) for a, b in pairs]


def _equal(ours: Pairs, theirs: Pairs) -> bool:
    return all(
        math.isclose(half, other, rel_tol=1e-6) and abs(center - middle) <= 1e-6 * half
        for (center, half), (middle, other) in zip(ours, theirs, strict=True)
    )
