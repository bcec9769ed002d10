"""Exact linear systems: coefficients of counts that are polynomials of sizes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction


def solve(rows: Sequence[Sequence[int]], values: Sequence[int]) -> list[Fraction] | None:
    """Coefficients c with rows @ c == values, exactly; None if there are none.

    Where the rows leave some of them open, those are 0.
    """
    width = len(rows[0])
    table = [
        [*map(Fraction, row), Fraction(value)] for row, value in zip(rows, values, strict=True)
    ]
    pivots = _eliminate(table, width)
    if any(row[-1] for row in table[len(pivots) :]):
        return None
    found_ = [Fraction(0)] * width
    for i, column in enumerate(pivots):
        found_[column] = table[i][-1]
    return found_


class Design:
    """A fixed set of rows, whose elimination is done once for many right-hand sides."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        count = len(rows)
        self.width = len(rows[0])
        unit = [[int(i == j) for j in range(count)] for i in range(count)]
        table = [
            [*map(Fraction, row), *map(Fraction, one)] for row, one in zip(rows, unit, strict=True)
        ]
        self.pivots = _eliminate(table, self.width)
        self._inverse = [[(i, x) for i, x in enumerate(row[self.width :]) if x] for row in table]

    def solve(self, values: Sequence[int]) -> list[Fraction] | None:
        """Coefficients for these values, exactly; None if there are none."""
        found = [sum((x * values[i] for i, x in row), Fraction(0)) for row in self._inverse]
        if any(found[len(self.pivots) :]):
            return None
        out = [Fraction(0)] * self.width
        for value, column in zip(found[: len(self.pivots)], self.pivots, strict=True):
            out[column] = value
        return out


def _eliminate(table: list[list[Fraction]], width: int) -> list[int]:
    """Gauss-Jordan elimination of the first `width` columns, in place; the column of each pivot."""
    pivots: list[int] = []
    for column in range(width):
        at = len(pivots)
        found = next((i for i in range(at, len(table)) if table[i][column]), None)
        if found is None:
            continue
        table[at], table[found] = table[found], table[at]
        lead = table[at][column]
        table[at] = [x / lead for x in table[at]]
        for i, row in enumerate(table):
            if i != at and (factor := row[column]):
                table[i] = [x - factor * y for x, y in zip(row, table[at], strict=True)]
        pivots.append(column)
    return pivots
