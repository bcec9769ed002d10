"""Text for the width at hand: lines end at spaces, and no word is ever cut or split."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

PIPE = 80
"""Columns of a table that goes to a file or a pipe, unless COLUMNS is set."""
WIDE = 100_000
"""Columns with `--wide`: every table is one table, a line for each row, and nothing is folded."""
_wide: ContextVar[bool] = ContextVar("wide", default=False)
LEAST = 20  # columns of a terminal; a narrower one is treated as this wide


def width() -> int:
    """Columns to lay out for: those of COLUMNS, of the terminal, or `PIPE`; `WIDE` if asked for."""
    if _wide.get():
        return WIDE
    columns = _columns_variable()
    if columns is None and sys.stdout.isatty():
        columns = shutil.get_terminal_size((80, 24)).columns
    return max(LEAST, columns or PIPE)


def folds() -> bool:
    """Whether running text is folded too: lines of a pipe are as long as they need to be."""
    return not _wide.get() and (sys.stdout.isatty() or _columns_variable() is not None)


@contextmanager
def wide() -> Iterator[None]:
    """Within, nothing is folded."""
    token = _wide.set(True)
    try:
        yield
    finally:
        _wide.reset(token)


def _columns_variable() -> int | None:
    columns = os.environ.get("COLUMNS", "")
    return int(columns) if columns.isascii() and columns.isdigit() and int(columns) else None


GLUE = "\ue000"  # a non-breaking space, from the private use area


def unbroken(name: object) -> str:
    """Mark a path or name so that `say` breaks no line at its spaces."""
    return str(name).replace(" ", GLUE)


def cells(text: str) -> int:
    """Columns that a line takes on a terminal, where some characters take two and some none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def fold(text: str, columns: int, indent: str = "") -> list[str]:
    """Fold `text` to lines of `width` columns, those after the first with `indent` before them.

    A longer word gets its own line. What is between backticks is one word
    if it fits on a line, so that a command can be copied.
    """
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lead = re.match(r" *", paragraph)
        line, empty = lead.group() if lead else "", True
        for word in _words(paragraph.strip(" "), columns - len(indent)):
            if not empty and cells(line) + 1 + cells(word) > columns:
                lines.append(line)
                line, empty = indent, True
            line += word if empty else f" {word}"
            empty = False
        lines.append(line)
    return lines


def fold_items(items: Iterable[str], columns: int, indent: str = "", between: str = ",") -> str:
    """Items with `between` after each but the last, folded between items rather than in them."""
    listed = list(items)
    text = [item + between for item in listed[:-1]] + listed[-1:]
    lines, line = [], ""
    for item in text:
        if line.strip() and cells(line) + 1 + cells(item) > columns:
            lines.append(line)
            line = indent
        line += f" {item}" if line.strip() else item
    return "\n".join(piece for whole in [*lines, line] for piece in fold(whole, columns, indent))


def brief(value: float) -> str:
    """A measure with three digits that count, and all of those before the point."""
    if abs(value) >= 999.5:
        return count(round(value))
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in the largest unit of which it is at least one."""
    for name, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= size:
            return f"{brief(seconds / size)} {name}"
    return f"{brief(seconds)} seconds"


def counted(number: int, noun: str, several: str | None = None) -> str:
    """A number of things: `1 cell`, `2 cells`, `2 passes` with `several`."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"


def count(value: int) -> str:
    """A whole number, with every digit; long ones have commas."""
    return f"{value:,}" if abs(value) >= 100_000 else str(value)


def longest(text: str) -> int:
    """Columns of the longest word, which is the least that `text` can be folded to."""
    return max((cells(word) for word in text.split()), default=0)


def pad(text: str, columns: int, justify: str) -> str:
    """`text` with spaces around it; it is longer if it does not fit."""
    spare = max(0, columns - cells(text))
    before = {"right": spare, "center": spare // 2}.get(justify, 0)
    return " " * before + text + " " * (spare - before)


def _words(text: str, columns: int) -> Sequence[str]:
    pieces: list[str] = []
    for piece in re.findall(r"[^\s`]*`[^`]*`[^\s`]*|\S+", text):
        glued = cells(piece) <= columns
        pieces += [piece] if glued else piece.split()
    return pieces
