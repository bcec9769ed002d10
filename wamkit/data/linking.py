"""A copy of a data set that takes no room: a second name for every file in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..leftovers import is_leftover


def link_tree(source: Path, goal: Path) -> None:
    """Give every file below `source` a second name below `goal`, a folder that is there.

    Only for files that never change again; where the file system has no second names they are
    copied. What a crash left hidden is passed over. Raises OSError.
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(source, onerror=refuse, followlinks=True):
        here = goal / Path(place).relative_to(source)
        folders[:] = [name for name in folders if not is_leftover(name)]
        for name in folders:
            (here / name).mkdir()
        for name in files:
            if not is_leftover(name):
                _link(Path(place, name), here / name)


def _link(source: Path, goal: Path) -> None:
    try:
        os.link(source, goal)
    except OSError:
        shutil.copy2(source, goal)
