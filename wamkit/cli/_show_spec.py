"""`wamkit show SPEC`: a whole spec, its base merged in and every default written out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config.extends import Extended
from ..config.parts import ALL_KINDS
from ..config.spec import parse, read
from ..errors import printable
from ..files.documents import SUFFIXES
from ..files.hub import is_remote
from ..files.toml_text import drop_none, toml_text
from ._output import emit
from ._sources import resolve_source


def is_spec_path(text: str) -> bool:
    """Whether what was typed is the path of a spec or of a saved policy, and no name of a part."""
    path = Path(text)
    if text in ALL_KINDS:
        return False
    return path.suffix in SUFFIXES or is_remote(text) or len(path.parts) > 1 or path.is_dir()


def show_spec(source: Path, overrides: Sequence[str], *, defaults: bool, json: bool) -> None:
    """Print the resolved spec at `source` as TOML, which reads back as a spec, or as JSON.

    Without `defaults`, only what the file, its base and `overrides` say.
    """
    tables, whole = resolve_tables(source, overrides)
    chosen = whole if defaults else dict(tables)
    if json:
        base = str(tables.base) if isinstance(tables, Extended) else None
        emit({"spec": str(source), "extends": base, "tables": chosen})
        return
    heading = printable(_heading(source, tables, overrides, defaults), lines=False)
    print(printable(toml_text(drop_none(chosen), head=[heading])), end="")


def resolve_tables(source: Path, overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables that are written at `source`, and the spec they make with every default.

    Raises SpecError with every mistake in them; parts need not fit each other.
    """
    tables = read(resolve_source(source), overrides)
    return tables, parse(tables, str(source)).dump()


def _heading(source: Path, tables: Any, overrides: Sequence[str], defaults: bool) -> str:
    heading = f"{source}"
    if isinstance(tables, Extended):
        heading += f", which extends {tables.base}"
    if overrides:
        heading += f", with {' '.join(f'--set {text}' for text in overrides)}"
    return heading + ("; with every default" if defaults else "; without defaults")
