"""Problems of a data set: the place, the problem and a hint."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import WamkitError

AGAIN = "copy the whole data set again"
CONVERT = "write or convert the data set again"
MOST = 10**12  # of frames, episodes or rows in a data set
SHOWN = 8  # faults in one error message


@dataclass(frozen=True)
class Finding:
    """One problem, where it is, and a hint."""

    file: str
    why: str
    episode: int | None = None
    frame: int | None = None
    hint: str = ""

    def __str__(self) -> str:
        places = (("episode", self.episode), ("frame", self.frame))
        parts = [f"{name} {number}" for name, number in places if number is not None]
        return f"{', '.join([self.file, *parts])}: {self.why}"


class DataError(WamkitError):
    """A data set cannot be used; lists every reason."""

    def __init__(self, findings: Sequence[Finding], about: str = "") -> None:
        self.findings = tuple(findings)
        first = self.findings[0]
        if len(findings) == 1:
            super().__init__(str(first) if not about else first.why, first.hint)
            return
        lines = [f"- {f}" + (f"\n    hint: {f.hint}" if f.hint else "") for f in findings[:SHOWN]]
        if len(findings) > SHOWN:
            lines.append(f"- and {len(findings) - SHOWN} more")
        what = f"{about or 'the data set'} has {len(findings)} faults:\n" + "\n".join(lines)
        super().__init__(what, "run `wamkit data check` on the folder")


def raise_findings(findings: Iterable[Finding], about: str = "") -> None:
    """Raises DataError if there is any."""
    if found := list(findings):
        raise DataError(found, about)


def findings_of(problem: WamkitError, file: str, episode: int | None = None) -> list[Finding]:
    """Convert an error to findings."""
    if isinstance(problem, DataError):
        return list(problem.findings)
    return [Finding(file, problem.what, episode, hint=problem.hint)]


def integer(row: Mapping[str, Any], name: str, least: int = 0) -> int:
    """Return an integer of a row, also if written as 12.0. Raises ValueError with a message."""
    value = row.get(name)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError(f"{name} is missing")
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} is {value!r:.40}, expected a whole number")
    if not isinstance(value, int) and (not math.isfinite(value) or int(value) != value):
        raise ValueError(f"{name} is {value!r:.40}, expected a whole number")
    if not least <= value < MOST:
        bound = f"{least} or more" if value < least else f"less than {MOST:g}"
        raise ValueError(f"{name} is {int(value)!s:.40}, expected {bound}")
    return int(value)


def seconds(row: Mapping[str, Any], name: str) -> float:
    """Return a time of a row. Raises ValueError with a message."""
    value = row.get(name)
    if value is None or isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ValueError(f"{name} is {value!r:.40}, expected seconds")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not 0 <= found < MOST:  # a NaN neither
        raise ValueError(f"{name} is {found:g}, expected seconds from 0 on, less than {MOST:g}")
    return found
