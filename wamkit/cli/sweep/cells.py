"""The cells of a sweep: each a spec that fits, or is refused with its reasons before any runs."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ...config.check import check
from ...config.hint_changes import is_mistyped
from ...config.overrides import value_of
from ...config.parts import KINDS, Conflict
from ...config.registry import registry
from ...config.runs import find, is_folder
from ...config.spec import draft, parse, read
from ...errors import Note, WamkitError
from .._folding import counted
from .._output import conflict_lines, note, say
from .grid import Axis, Point
from .runs import RUN

SHOWN = 8
"""Cells that are listed with the reasons they share."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One variant of the spec."""

    point: Point
    spec: dict[str, Any] | None
    """The resolved spec; None if there are mistakes in it."""
    tokens: int | None
    """Of one full pass over one chunk."""
    refused: tuple[Conflict, ...]
    """Why it cannot run."""
    missing: tuple[Conflict, ...]
    """What is not on this machine, and keeps it from being built at full size."""

    @property
    def label(self) -> str:
        """Its values, for tables."""
        return self.point.label


def cells_of(
    source: Path, points: Sequence[Point], overrides: Sequence[str], *, tiny: bool
) -> list[Cell]:
    """The cells of a sweep over the spec at `source`, each checked, at toy size if `tiny`.

    What a part that is exchanged leaves behind is noted once. Raises WamkitError if `source` cannot
    be read, or if a key or value cannot be set in it.
    """
    read(source, overrides)  # what is wrong whatever varies
    found, printed = [], set[str]()
    with warnings.catch_warnings(record=True) as remarks:
        warnings.simplefilter("always", Note)
        for point in points:
            found.append(_cell(source, point, [*overrides, *point.overrides], tiny=tiny))
    for remark in remarks:
        if issubclass(remark.category, Note) and str(remark.message) not in printed:
            printed.add(str(remark.message))
            note(str(remark.message))
    return found


def _cell(source: Path, point: Point, overrides: list[str], *, tiny: bool) -> Cell:
    try:
        raw = read(source, overrides)
    except WamkitError as error:
        fault = Conflict(between=(point.label,), why=error.what, hint=error.hint)
        return Cell(point, None, None, (fault,), ())
    if mistakes := draft(raw)[1]:
        return Cell(point, None, None, tuple(mistakes), ())
    spec = parse(raw, point.label)
    conflicts = check(spec.tiny()[0] if tiny else raw)
    refused = tuple(c for c in conflicts if not c.missing)
    missing = tuple(c for c in conflicts if c.missing)
    return Cell(point, spec.dump(), None if refused else _tokens(spec), refused, missing)


def _tokens(spec: Any) -> int:
    return int(sum(spec.tokens().values()))


def expect_known_values(axes: Sequence[Axis], cells: Sequence[Cell]) -> None:
    """Raise WamkitError for a value that nothing admits: an unknown part, or a mistyped word.

    A value that only some cells admit is none: what it fits is what a sweep is for.
    """
    for axis in axes:
        kind = axis.key.removesuffix(".name")
        for value in axis.values if kind in KINDS else ():
            part = value_of(value)
            name = part.get("name") if isinstance(part, Mapping) else part
            if isinstance(name, str):
                registry().get(kind, name)
        for value in axis.values:
            having = [cell for cell in cells if (axis.key, value) in cell.point.settings]
            faults = [_fault(cell, axis.key) for cell in having]
            if faults and (first := faults[0]) is not None and None not in faults:
                raise WamkitError(f"--vary {axis.key}={value}: {first.why}", first.hint)


def _fault(cell: Cell, key: str) -> Conflict | None:
    """What a cell says of the word at a key, if none such may stand there."""
    return next((c for c in cell.refused if c.between == (key,) and is_mistyped(c)), None)


def refuse_missing(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, of which those that lack something on this machine are refused too."""
    return [replace(c, refused=(*c.refused, *c.missing), missing=()) for c in cells]


def refuse_untrained(cells: Sequence[Cell], source: Path, out: Path) -> list[Cell]:
    """The cells, of which those without a trained policy in `out` are refused.

    A saved policy as `source` is its own in every cell.
    """
    if is_folder(source):
        return list(cells)
    found = []
    for cell in cells:
        run = out / cell.point.folder / RUN
        try:
            find(run)
        except WamkitError as error:
            why = Conflict(
                between=("eval",),
                why="there is no policy to play" if not run.is_dir() else error.what,
                hint="train first: the same --vary and --out with --run train; or name a saved "
                "policy in place of the spec",
            )
            cell = replace(cell, refused=(*cell.refused, why))
        found.append(cell)
    return found


def counts_line(count: int, fitting: int) -> str:
    """How many cells there are, fit, and do not."""
    refused = count - fitting
    fit = f"{counted(count, 'cell')}: {fitting} {'fits' if fitting == 1 else 'fit'}"
    return fit + (f", {refused} {'does' if refused == 1 else 'do'} not" if refused else "")


def report_refused(cells: Sequence[Cell]) -> None:
    """Print why cells are refused, cells with the same reasons together."""
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        if cell.refused:
            groups.setdefault(tuple(map(str, cell.refused)), []).append(cell)
    for group in groups.values():
        more = f" and {len(group) - SHOWN} more" if len(group) > SHOWN else ""
        say(f"refused: {'; '.join(cell.label for cell in group[:SHOWN])}{more}", "bold")
        say(conflict_lines(group[0].refused))
