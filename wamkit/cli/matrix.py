"""`wamkit matrix`: which backbone fits which action head under which paradigm, and why not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.compositions import Cell, matrix
from ..files.durable import as_not_written, make_folder, write_text
from ..files.printable import escape_markdown
from ._completion import name_completion
from ._options import Json
from ._output import emit, mark, say, show_table, spinner, table, versioned
from .check import warn

EXAMPLE = "wamkit matrix --paradigm single_pass --out matrix.md"

Names = list[str] | None


def _only(kind: str) -> Any:
    return typer.Option(
        help="Only this one; may be repeated.", autocompletion=name_completion(kind)
    )


def command(
    backbone: Annotated[Names, _only("backbone")] = None,
    action_head: Annotated[Names, _only("action_head")] = None,
    paradigm: Annotated[Names, _only("paradigm")] = None,
    out: Annotated[Path | None, typer.Option(help="A .md or .json file to write as well.")] = None,
    json: Json = False,
) -> None:
    """Try every registered backbone with every action head and paradigm, on paper.

    Each is composed at toy size with a VAE and a text encoder that fit, and checked. What is
    refused cannot work mathematically; the reason and an alternative are printed.
    """
    if out is not None and out.suffix not in {".md", ".json"}:
        from ..errors import WamkitError

        raise WamkitError(f"{out} is neither .md nor .json", "choose one of the two endings")
    with spinner("checking"):
        cells = list(matrix(tuple(backbone or ()), tuple(action_head or ()), tuple(paradigm or ())))
    if out is not None:
        text = markdown(cells) if out.suffix == ".md" else _dumps(versioned(as_data(cells)))
        _write(out, text)
    if json:
        emit(as_data(cells))
        return
    _draw(cells)
    if out is not None:
        say(f"\nwrote {out}", whole=True)


def as_data(cells: Sequence[Cell]) -> dict[str, Any]:
    """The table as plain data."""
    return {
        "runs": sum(cell.runs for cell in cells),
        "refused": sum(not cell.runs for cell in cells),
        "cells": [
            {
                "backbone": cell.backbone,
                "action_head": cell.action_head,
                "paradigm": cell.paradigm,
                "runs": cell.runs,
                "conflicts": [c.model_dump(mode="json") for c in cell.conflicts],
                "warnings": [c.model_dump(mode="json") for c in cell.cautions],
            }
            for cell in cells
        ],
    }


def markdown(cells: Sequence[Cell]) -> str:
    """The table in Markdown, a row for each backbone and head, then every reason."""
    columns, rows = _columns(cells), _rows(cells)
    numbers = {reason: i for i, reason in enumerate(_reasons(cells), 1)}
    lines = [
        "| backbone | action head | " + " | ".join(map(escape_markdown, columns)) + " |",
        "|" + "---|" * (len(columns) + 2),
    ]
    for (backbone, head), row in rows.items():
        marks = ["fits" if c.runs else f"refused ({numbers[_reason(c)]})" for c in row]
        lines.append(
            f"| {escape_markdown(backbone)} | {escape_markdown(head)} | " + " | ".join(marks) + " |"
        )
    if numbers:
        lines += ["", "Why something is refused:", ""]
        lines += [
            f"{i}. {escape_markdown(why)} Hint: {escape_markdown(hint)}."
            for (why, hint), i in numbers.items()
        ]
    return "\n".join(lines) + "\n"


def _draw(cells: Sequence[Cell]) -> None:
    columns, numbers = _columns(cells), {r: i for i, r in enumerate(_reasons(cells), 1)}
    heads = ("backbone", "action head")
    made = table(*heads, *columns, keep=heads, center=columns, keys=2)
    last = ""
    for (backbone, head), row in _rows(cells).items():
        marks = [mark(True) if c.runs else str(numbers[_reason(c)]) for c in row]
        made.add_row(backbone if backbone != last else "", head, *marks)
        last = backbone
    show_table(made)
    runs = sum(cell.runs for cell in cells)
    say(f"\n{runs} of {len(cells)} fit; a number is the reason of a refusal")
    for (why, hint), number in numbers.items():
        lead = f"  {number}. "
        say(f"{lead}{why}")
        say(f"{' ' * len(lead)}hint: {hint}")
    warn(list(dict.fromkeys(c for cell in cells for c in cell.cautions)))


def _columns(cells: Sequence[Cell]) -> list[str]:
    return list(dict.fromkeys(cell.paradigm for cell in cells))


def _rows(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    rows: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.backbone, cell.action_head), []).append(cell)
    return rows


def _reason(cell: Cell) -> tuple[str, str]:
    return cell.conflicts[0].why, cell.conflicts[0].hint


def _reasons(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(_reason(cell) for cell in cells if not cell.runs))


def _dumps(data: Any) -> str:
    from json import dumps

    return dumps(data, indent=1) + "\n"


def _write(file: Path, text: str) -> None:
    with as_not_written(file):
        make_folder(file.parent)
    write_text(file, text)
