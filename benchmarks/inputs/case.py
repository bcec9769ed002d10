"""One input, one command, and what has to come of it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

VALID = 0.15
"""Share of the cases of an area that are odd and right."""
Expected = Literal["refused", "accepted", "same", "either"]
"""`refused`: with a message and a hint. `accepted`: with the answer of the valid input, or as
`look` judges it. `same`: one of these two. `either`: refused, or accepted with any finite
answer."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    """Exit code; negative for the number of a signal."""
    out: str
    err: str
    seconds: float
    """Processor time of the command and of its children."""
    peak: int
    """The most bytes of memory it held beyond those of the warm process."""
    limit: str = ""
    """Which limit ended it: "time", "memory", or none."""
    changed: tuple[str, ...] = ()
    """Files outside `Case.out` that were made, changed or removed, as `+a`, `~a`, `-a`."""


@dataclass(frozen=True)
class Case:
    """A command and its input; paths in `command` are relative to the folder of the case."""

    name: str
    make: Callable[[Path], Any]
    """Writes the input into a folder, the working directory of the command."""
    command: tuple[str, ...]
    expected: Expected = "refused"
    valid: str = ""
    """The valid input that this one is like: a key of the area's `VALID`."""
    look: Callable[[Path, Outcome], str | None] | None = None
    """What is wrong with the answer to an accepted input; None if nothing is."""
    out: tuple[str, ...] = ("out",)
    """Names in the folder that the command may write below."""


@dataclass
class Chosen:
    """Cases of one area: so many of those that are made, the same ones each time."""

    area: str
    count: int
    cases: list[Case] = field(default_factory=list)

    @classmethod
    def of(cls, area: str, made: Iterable[Case], count: int) -> Chosen:
        """Choose `count` cases by the name of the area.

        Raises ValueError if there are fewer, or if two have the same name.
        """
        every = list(made)
        names = [case.name for case in every]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"{area}: several cases are named {', '.join(twice[:5])}")
        draw = random.Random(area)
        good = [place for place, case in enumerate(every) if case.expected == "accepted"]
        good = draw.sample(good, min(len(good), round(count * VALID)))
        rest = [place for place, case in enumerate(every) if case.expected != "accepted"]
        picked = sorted([*good, *draw.sample(rest, min(len(rest), count - len(good)))])
        if len(picked) < count:
            raise ValueError(f"{area}: {len(picked)} cases, fewer than {count}")
        return cls(area, count, [every[place] for place in picked])
