"""The ways to lay out a table that is wider than the terminal, and which of them is the shortest.

Each way is a function of a table and a width that gives lines, or None where it does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from string import ascii_lowercase

from ._folding import GLUE, cells, fold, fold_items, unbroken
from ._tables import (
    GAP,
    PROSE,
    Column,
    Line,
    Row,
    Table,
    drawn,
    drawn_head,
    drawn_row,
    extract_shared,
    least,
    natural,
    total,
    widths_within,
)

Lines = list[Line] | None


def choose(table: Table, width: int, rule: str) -> list[Line]:
    """As it is if it fits, else in the way that takes the fewest lines."""
    if total(natural(table)) <= width:
        return drawn(table, natural(table), rule)
    fewer, caption = extract_shared(table, width)
    if total(natural(fewer)) <= width:
        return caption + drawn(fewer, natural(fewer), rule)
    found = [
        (weight * len(lines), lines)
        for weight, way in (WAYS if table.show_header else PLAIN)
        if (lines := way(fewer, width, rule)) is not None
    ]
    if not found:  # nothing but names, and they are longer than a line
        return caption + drawn(fewer, natural(fewer), rule)
    return caption + min(found, key=lambda pair: pair[0])[1]


def fold_layout(table: Table, width: int, rule: str) -> Lines:
    """The table as it is, its text folded at spaces."""
    sizes = widths_within(table, width)
    return None if sizes is None else drawn(table, sizes, rule)


def split(table: Table, width: int, rule: str) -> Lines:
    """Several tables below each other, each with the first columns and some of the others."""
    need, groups = least(table), [[*range(table.keys)]]
    for i in range(table.keys, len(table.columns)):
        if total([need[k] for k in [*groups[-1], i]]) > width:
            groups.append([*range(table.keys)])
        groups[-1].append(i)
    if len(groups) > 1 and len(groups[0]) == table.keys:
        return None
    lines: list[Line] = []
    for k, group in enumerate(groups):
        part = table.only(group)
        if k:  # rows that the first of the tables holds already
            part.rows = [row for row in part.rows if any(row.cells[table.keys :])]
        made = fold_layout(part, width, rule)
        if made is None:
            return None
        lines += [*([Line("")] if lines else []), *made]
    return lines


def letter_layout(table: Table, width: int, rule: str) -> Lines:
    """Marks below letters, with a legend of the letters above."""
    sizes = least(replace(table, show_header=False))
    long = [
        i
        for i, column in enumerate(table.columns)
        if column.justify == "center" and cells(column.name) > sizes[i] + 1
    ]
    if len(long) < 2 or len(long) > len(ascii_lowercase):
        return None
    letters = dict(zip(long, ascii_lowercase[: len(long)], strict=True))
    columns = [
        replace(column, name=letters.get(i, column.name)) for i, column in enumerate(table.columns)
    ]
    short = replace(table, columns=columns)
    made = fold_layout(short, width, rule) or split(short, width, rule)
    if made is None:
        return None
    legend = fold_items((f"{letters[i]} {table.columns[i].name}" for i in long), width)
    return [*(Line(text) for text in legend.split("\n")), Line(""), *made]


def exif_orientation(table: Table, width: int, rule: str) -> Lines:
    """A line for each column, and the rows side by side, as many as fit."""
    lines: list[Line] = []
    for block in _blocks(table, width):
        columns = [Column(table.columns[0].name, whole=True)]
        columns += [Column(row.cells[0], "right", whole=True) for row in block]
        made = Table(columns)
        for i, column in enumerate(table.columns[1:], 1):
            made.add_row(column.name, *(row.cells[i] for row in block))
        if total(natural(made)) > width:
            return None
        lines += [*([Line("")] if lines else []), *drawn(made, natural(made), rule)]
    return lines


def _blocks(table: Table, width: int) -> Iterator[list[Row]]:
    """Group rows that fit next to the names of the columns."""
    first = max(cells(column.name) for column in table.columns)
    block: list[Row] = []
    used = first
    for row in table.rows:
        size = max(map(cells, row.cells)) + GAP
        if block and used + size > width:
            yield block
            block, used = [], first
        block.append(row)
        used += size
    if block:
        yield block


def beneath(table: Table, width: int, rule: str) -> Lines:
    """The first columns as a table, and below each of its rows the rest of it as text."""
    sizes, lead = natural(table), list(range(table.keys))
    for i in range(table.keys, len(table.columns)):
        long = not table.columns[i].whole and sizes[i] > PROSE
        if long or total([sizes[k] for k in [*lead, i]]) > width:
            break
        lead.append(i)
    rest = range(len(lead), len(table.columns))
    if not rest:
        return None
    above = table.only(lead)
    sizes = widths_within(above, width) or natural(above)
    lines = drawn_head(above, sizes, rule) if table.show_header else []
    for row, short in zip(table.rows, above.rows, strict=True):
        lines += drawn_row(above, short, sizes)
        filled_cells = [(table.columns[i], row.cells[i]) for i in rest if row.cells[i]]
        if len(rest) == 1 and not table.columns[rest[0]].whole:
            texts = [text for _, text in filled_cells]
        else:
            texts = [
                f"{column.name}: {unbroken(text) if column.whole else text}".removeprefix(": ")
                for column, text in filled_cells
            ]
        for text in _pack_columns(texts, width - 4):
            for line in fold(text, width - 4, "  "):
                lines.append(Line(f"    {line}".replace(GLUE, " "), row.style))
    return lines


def _pack_columns(texts: list[str], width: int) -> list[str]:
    """Short ones share a line."""
    lines: list[str] = []
    for text in texts:
        if lines and cells(lines[-1]) + 2 + cells(text) <= width:
            lines[-1] += f"; {text}"
        else:
            lines.append(text)
    return lines


WAYS: tuple[tuple[float, Callable[[Table, int, str], Lines]], ...] = (
    (1.0, fold_layout),
    (1.05, letter_layout),
    (1.1, split),
    (1.2, exif_orientation),
    (1.5, beneath),
)
"""Cost of a line in each layout when the shortest is chosen: the plainest wins ties."""
PLAIN = (WAYS[0], WAYS[-1])  # of a table without heads
