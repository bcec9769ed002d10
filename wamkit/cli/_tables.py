"""Tables and their layout: numbers, names and paths are never cut or split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ..errors import printable
from ._folding import cells, fold, fold_items, longest, pad

GAP = 2  # columns between two columns of a table
PROSE = 24  # running text is not folded to less, where something else can give way


@dataclass(frozen=True)
class Column:
    """A column: how its cells are placed, and whether they may be folded at spaces."""

    name: str
    justify: Literal["left", "right", "center"] = "left"
    whole: bool = False


@dataclass(frozen=True)
class Row:
    """The cells of a row."""

    cells: tuple[str, ...]
    style: str | None = None


@dataclass(frozen=True)
class Line:
    """A line to print."""

    text: str
    style: str | None = None


@dataclass
class Table:
    """Rows of text below named columns, of which the first `keys` identify a row."""

    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    keys: int = 1
    show_header: bool = True

    def add_row(self, *texts: str, style: str | None = None) -> None:
        """Add a row with a text for each column."""
        if len(texts) != len(self.columns):
            raise ValueError(f"{len(texts)} cells for {len(self.columns)} columns")
        self.rows.append(Row(tuple(map(printable, texts)), style))

    def only(self, places: Sequence[int]) -> Table:
        """The table of these columns alone."""
        rows = [replace(row, cells=tuple(row.cells[i] for i in places)) for row in self.rows]
        return replace(self, columns=[self.columns[i] for i in places], rows=rows)

    def lines(self, width: int, rule: str = "─") -> list[Line]:
        """Render the table within `width` columns, in the shortest layout that fits.

        As it is, if it fits. Else values shared by every row are printed once above; text is folded
        at spaces; and wider tables are split into several, transposed, or
        written row by row. Only a word that is longer than a line makes a line longer.
        """
        from ._layouts import choose

        return choose(self, width, rule)


def total(widths: Sequence[int]) -> int:
    """Columns of a whole line."""
    return sum(widths) + GAP * max(0, len(widths) - 1)


def natural(table: Table) -> list[int]:
    """The width of each column if nothing is folded."""
    found = []
    for i, column in enumerate(table.columns):
        texts = [row.cells[i] for row in table.rows] + [column.name] * table.show_header
        found.append(max((cells(line) for t in texts for line in t.split("\n")), default=0))
    return found


def least(table: Table) -> list[int]:
    """The width that each column needs at least: of its longest word, or of a whole cell."""
    found = []
    for i, (column, full) in enumerate(zip(table.columns, natural(table), strict=True)):
        texts = [row.cells[i] for row in table.rows]
        size = max(map(cells if column.whole else longest, texts), default=0)
        if not column.whole:
            size = max(size, min(PROSE, full))
        found.append(max(size, longest(column.name) * table.show_header))
    return found


def widths_within(table: Table, width: int) -> list[int] | None:
    """A width for each column that add up to no more than `width`; None if it is too little."""
    wanted = natural(table)
    if total(wanted) <= width:
        return wanted
    sizes = least(table)
    if (spare := width - total(sizes)) < 0:
        return None
    while spare and (short := [i for i, size in enumerate(sizes) if size < wanted[i]]):
        sizes[max(short, key=lambda i: wanted[i] / sizes[i])] += 1
        spare -= 1
    return sizes


def drawn(table: Table, widths: Sequence[int], rule: str) -> list[Line]:
    """The table with these widths: heads, a rule, and every row."""
    lines = drawn_head(table, widths, rule) if table.show_header else []
    for row in table.rows:
        lines += drawn_row(table, row, widths)
    return lines


def drawn_head(table: Table, widths: Sequence[int], rule: str) -> list[Line]:
    """The names of the columns, folded at spaces, and a rule."""
    names = [fold(column.name, size) for column, size in zip(table.columns, widths, strict=True)]
    return [*_align_cells(table, names, widths, "bold"), Line(rule * total(widths))]


def drawn_row(table: Table, row: Row, widths: Sequence[int]) -> list[Line]:
    """One row, on as many lines as its longest cell needs."""
    texts = [
        text.split("\n") if column.whole else fold(text, size)
        for column, text, size in zip(table.columns, row.cells, widths, strict=True)
    ]
    return _align_cells(table, texts, widths, row.style)


def extract_shared(table: Table, width: int) -> tuple[Table, list[Line]]:
    """Remove columns with one value from the table, and return lines with these values."""
    keep, same = list(range(table.keys)), []
    for i in range(table.keys, len(table.columns)):
        values = {row.cells[i] for row in table.rows}
        if len(values) != 1 or table.columns[i].justify == "center":  # marks speak side by side
            keep.append(i)
        elif value := values.pop():
            same.append(f"{table.columns[i].name} {value}".strip())
    if len(table.rows) < 2 or len(keep) == len(table.columns):
        return table, []
    if same:
        same[0] = f"in every row: {same[0]}"
    text = fold_items(same, width, "  ", ";")
    return table.only(keep), [Line(line) for line in text.split("\n") if line]


def _align_cells(
    table: Table, texts: Sequence[Sequence[str]], widths: Sequence[int], style: str | None
) -> list[Line]:
    made = []
    for i in range(max(map(len, texts), default=0)):
        padded = [
            pad(lines[i] if i < len(lines) else "", size, column.justify)
            for column, lines, size in zip(table.columns, texts, widths, strict=True)
        ]
        made.append(Line((" " * GAP).join(padded).rstrip(), style))
    return made
