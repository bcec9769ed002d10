"""Changes to files of a folder: other content, another kind of file, and what damages any file."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Change = Callable[[Path], Any]
"""Of the folder that a case is made in."""


def written(file: str, made: str | bytes) -> Change:
    """The file with this content; its folder is made if there is none."""
    data = made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made

    def change(here: Path) -> None:
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).write_bytes(data)

    return change


def remade(file: Path, write: Callable[[Path], Any]) -> None:
    """Put something else in the place of a file."""
    file.unlink()
    write(file)


def damages(file: str) -> dict[str, Change]:
    """name -> a file that is missing, damaged, or no file."""

    def half(here: Path) -> None:
        data = (here / file).read_bytes()
        (here / file).write_bytes(data[: len(data) // 2])

    return {
        "missing": lambda here: (here / file).unlink(),
        "empty": written(file, b""),
        "half": half,
        "of zeros": written(file, bytes(3000)),
        "a list": written(file, "[1, 2]"),
        "a number": written(file, "1"),
        "a folder": lambda here: remade(here / file, Path.mkdir),
        "a pipe": lambda here: remade(here / file, os.mkfifo),
        "a link to itself": lambda here: remade(here / file, lambda f: f.symlink_to(f.name)),
        "a link to nothing": lambda here: remade(here / file, lambda f: f.symlink_to("nothing")),
        "a link to zeros": lambda here: remade(here / file, lambda f: f.symlink_to("/dev/zero")),
    }
