"""`wamkit diff`: in which keys two specs differ, as the policies see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.difference import Difference, differences
from ..files.toml_text import drop_none, inline
from ._options import Json, Overrides
from ._output import FOUND, emit, say, show_table, table
from ._show_spec import resolve_tables
from .compare import unique_names

EXAMPLE = "wamkit diff examples/fastwam.toml examples/fastwam_joint.toml"

ABSENT = "-"


def command(
    a: Annotated[Path, typer.Argument(metavar="SPEC_A", help="A spec, a saved policy or a run.")],
    b: Annotated[Path, typer.Argument(metavar="SPEC_B", help="Another one.")],
    overrides: Overrides = None,
    exit_code: Annotated[
        bool, typer.Option("--exit-code", help="End with 1 if they differ, as `git diff` does.")
    ] = False,
    json: Json = False,
) -> None:
    """Print what differs between two specs: key, value in the first, value in the second.

    Both are resolved before: bases are merged in and defaults written out, so that a value which
    only one of them spells is no difference. A part with another name counts as one: of its keys,
    those that differ are printed as far as the specs write them, and all of them with --json.
    """
    (tables_a, whole_a), (tables_b, whole_b) = (
        resolve_tables(path, overrides or ()) for path in (a, b)
    )
    found = differences(whole_a, whole_b)
    if json:
        emit({"a": str(a), "b": str(b), "same": not found, "differences": list(map(vars, found))})
    elif not found:
        say(f"{a} and {b} are the same policy")
    else:
        names = unique_names([a, b])
        made = table("key", *names, keep=("key",))
        for each in found:
            made.add_row(each.key, *_cells(each, tables_a, tables_b))
        show_table(made)
        say(f"\n{len(found)} difference{'s' * (len(found) > 1)}")
    if found and exit_code:
        raise typer.Exit(FOUND)


def _cells(each: Difference, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[str]:
    """Both values as TOML; of tables, what differs and is written, a line for each key or item."""
    for value, tables in ((each.a, a), (each.b, b)):
        if isinstance(value, Mapping | list):
            raw = _value_at(tables, each.key)
            if isinstance(raw, Mapping) and isinstance(value, Mapping) and each.block:
                raw = {key: inner for key, inner in raw.items() if key in value}
            value = value if raw is None else raw
        yield _cell(value)


def _cell(value: Any) -> str:
    if value is None:
        return ABSENT
    value = drop_none(value)
    if isinstance(value, Mapping):
        return "\n".join(f"{key} = {inline(each)}" for key, each in value.items())
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return "\n".join(map(inline, value))
    return inline(value)


def _value_at(tables: Any, key: str) -> Any:
    """What stands at a dotted path; None if there is nothing."""
    for part in key.split("."):
        tables = tables.get(part) if isinstance(tables, Mapping) else None
    return tables
