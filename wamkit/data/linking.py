"""A copy of a data set that takes no room: a second name for every file in it.

Rewriting such a file makes a new inode, so the other name keeps the old content.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from ..files import strict_json
from ..files.leftovers import is_leftover
from . import parquet


def link_tree(source: Path, goal: Path) -> None:
    """Hard-link every file below `source` into `goal`, an existing folder.

    Only for files that never change again; where the file system has no second names they are
    copied. Temporary files of a crash are skipped. Files may be links, as in the cache of the hub.
    Links to folders are refused: they lead anywhere, also back to where they are. Raises OSError,
    and WamkitError for links to folders or to nothing, and for special files.
    """

    def refuse(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(source, onerror=refuse):
        here = goal / Path(place).relative_to(source)
        folders[:] = [name for name in folders if not is_leftover(name)]
        for name in folders:
            if Path(place, name).is_symlink():
                raise _no_copy(Path(place, name), "is a link to a folder")
            (here / name).mkdir()
        for name in filter(lambda name: not is_leftover(name), files):
            if not Path(place, name).is_file():
                raise _no_copy(Path(place, name), "is no file, or a link to none")
            _link(Path(place, name), here / name)


def _no_copy(place: Path, why: str) -> WamkitError:
    return WamkitError(
        f"{place} {why}, and episodes are added to a copy of the data set",
        "remove it, or replace it by the file it should be",
    )


def _link(source: Path, goal: Path) -> None:
    try:
        os.link(source, goal)
    except OSError:
        shutil.copy2(source, goal)


def put_table(table: Any, file: Path) -> None:
    """Write a parquet file over a second name. Raises OSError."""
    file.unlink(missing_ok=True)
    parquet.import_pyarrow().parquet.write_table(table, file)


def put_json(file: Path, data: Any) -> None:
    """Write a JSON text over a second name. Raises OSError."""
    file.unlink(missing_ok=True)
    file.write_text(strict_json.dumps(data, indent=4) + "\n")
