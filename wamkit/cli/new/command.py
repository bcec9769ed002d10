"""`wamkit new`: the first files of a plugin of one's own, complete and tested."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from .._output import say
from .scaffold import SUFFIXES, write

EXAMPLE = "wamkit new backbone my_backbone"


def _complete(incomplete: str) -> list[str]:
    """The kinds that begin like this."""
    return [kind for kind in SUFFIXES if kind.startswith(incomplete)]


def command(
    kind: Annotated[
        str, typer.Argument(help=f"What to start: {', '.join(SUFFIXES)}.", autocompletion=_complete)
    ],
    name: Annotated[str, typer.Argument(help="Name of the part in a spec, in snake_case.")],
    out: Annotated[
        Path | None, typer.Option(help="The folder to write; by default ./NAME.")
    ] = None,
) -> None:
    """Start a plugin: a whole project with a working part and its tests."""
    folder = out or Path(name)
    files = write(kind, name, folder)
    say(f"wrote {folder}", "bold", whole=True)
    for line in tree(files):
        say(f"  {line}")
    place = quote(str(folder))
    say("\nnext:", "bold")
    say(f"  pip install -e {place}", whole=True)
    say(f"  pytest {place}", whole=True)
    say(f"  wamkit show {kind} {name}", whole=True)


def tree(files: list[str]) -> list[str]:
    """Sorted paths as an indented tree, folders first."""
    lines: list[str] = []
    for folder in sorted({path.rpartition("/")[0] for path in files}, reverse=True):
        if folder:
            lines.append(f"{folder}/")
        for path in files:
            parent, _, name = path.rpartition("/")
            if parent == folder:
                lines.append(f"  {name}" if folder else name)
    return lines
