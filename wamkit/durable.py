"""Files and folders written whole or not at all, so that neither a crash nor a full disk loses one.

A file:     `write_text(file, text)`, `write_bytes(file, data)`, or, where a library writes it,

                with replacing(file) as part:
                    picture.save(part, format="PNG")

A folder:   with replacing_folder(goal) as part:
                (part / "spec.yaml").write_text(...)

Either is written under a hidden name in the same folder (`wamkit.leftovers`), flushed to the disk,
and then takes the place of what was there, at one stroke. Before anything is written, what dead
processes left in that folder is removed, so that a disk they filled has room again. What the file
system refuses is raised as a WamkitError that names the file and what is safe; `safe` says the
latter in the caller's own words.

A folder that is made in several steps, or by several processes: take `part = hidden(goal)`, once,
in the process that lives longest (its id is in the name, and while it lives nobody sweeps the
part); fill it; then `replace_folder(part, goal)`. Call `sweep(folder)` before, and `recover(goal)`
before reading what may have been replaced. `wamkit.locking.lock` keeps a second process out.

A folder is replaced by exchanging two names (renameat2 on Linux, renamex_np on macOS), which a
kill cannot split; `sys.audit("wamkit.exchange", new, goal)` tells of it. Where the file system
cannot, the old folder is renamed first: a kill between leaves it under a hidden name, and the next
`recover` or `sweep` puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import WamkitError
from .leftovers import OLD, hidden, recover, remove, sweep, sweep_older

__all__ = [
    "hidden",
    "in_words",
    "make_folder",
    "recover",
    "refusal",
    "remove",
    "replace_folder",
    "replacing",
    "replacing_folder",
    "sweep",
    "sync",
    "sync_tree",
    "write_bytes",
    "write_text",
]

_SWAP = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


def write_text(file: str | Path, text: str, safe: str | None = None) -> None:
    """Write a text in UTF-8 to `file`, whole or not at all. Raises WamkitError."""
    write_bytes(file, text.encode(), safe)


def write_bytes(file: str | Path, data: bytes, safe: str | None = None) -> None:
    """Write `data` to `file`, whole or not at all. Raises WamkitError."""
    with replacing(file, safe) as part:
        part.write_bytes(data)


@contextmanager
def replacing(file: str | Path, safe: str | None = None) -> Iterator[Path]:
    """A path to write to; when the block ends, what was written there becomes `file`.

    An error in the block leaves `file` as it was. Its folder must be there. A device or a pipe is
    written to directly. Raises WamkitError for what the file system refuses.
    """
    goal = Path(file)
    with in_words(goal, safe):
        if goal.exists() and not goal.is_file() and not goal.is_dir():
            yield goal
            return
        sweep(goal.parent)
        sweep_older(goal)
        part = hidden(goal)
        try:
            yield part
            sync(part)
            os.replace(part, goal)
            sync(goal.parent)
        finally:
            remove(part)


@contextmanager
def replacing_folder(goal: str | Path, safe: str | None = None) -> Iterator[Path]:
    """A new folder to fill; when the block ends, it takes the place of `goal`.

    An error in the block leaves `goal` as it was. Folders above it are made. A link at `goal` is
    replaced, and what it points to is left alone. Raises WamkitError for what the file system
    refuses.
    """
    goal = Path(goal)
    with in_words(goal, safe):
        sweep(goal.parent)
        sweep_older(goal)
        make_folder(goal.parent)
        part = hidden(goal)
        try:
            part.mkdir()
            yield part
            replace_folder(part, goal)
        finally:
            remove(part)


def replace_folder(new: Path, goal: Path) -> None:
    """Put the folder `new` where `goal` is; what `goal` was is removed after that.

    Both lie in the same folder. Raises OSError; `goal` is then what it was.
    """
    sync_tree(new)
    if not os.path.lexists(goal):
        os.rename(new, goal)
        sync(goal.parent)
        return
    if _exchange(new, goal):
        old = new
    else:
        old = hidden(goal, OLD)
        os.rename(goal, old)
        try:
            os.rename(new, goal)
        except OSError:
            os.rename(old, goal)
            raise
    sync(goal.parent)
    remove(old)


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it, so that a crash does not lose them either."""
    missing = [folder]
    while not missing[-1].exists() and missing[-1] != missing[-1].parent:
        missing.append(missing[-1].parent)
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing[1:]:
        sync(made)


def sync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and itself, to the disk. Links are no files."""
    for place, _, files in os.walk(folder, topdown=False):
        for name in files:
            if not (file := Path(place, name)).is_symlink():
                sync(file)
        sync(Path(place))


def sync(place: Path) -> None:
    """Flush a file, or the names in a folder, to the disk. Raises OSError if there is no room."""
    is_folder = place.is_dir()
    if is_folder and sys.platform == "win32":
        return
    handle = os.open(
        place, os.O_RDONLY if is_folder or not os.access(place, os.W_OK) else os.O_RDWR
    )
    try:
        os.fsync(handle)
    except OSError as error:
        if not is_folder or error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


@contextmanager
def in_words(goal: Path, safe: str | None = None) -> Iterator[None]:
    """What the file system refuses in the block, as a WamkitError that names `goal`."""
    try:
        yield
    except OSError as error:
        raise refusal(goal, error, safe) from None


def refusal(goal: Path, error: OSError, safe: str | None = None) -> WamkitError:
    """The error for a user: what could not be written, why, what to do, and what is safe."""
    if error.errno in _FULL:
        cure = "make room, and do it again"
    elif error.errno == errno.EFBIG:
        cure = "raise the limit on the size of files (ulimit -f), and do it again"
    elif error.errno in _CLOSED:
        cure = "make it writable, or choose another place"
    elif error.errno == errno.ENAMETOOLONG:
        cure = "choose a shorter name"
    else:
        cure = "choose another place"
    if safe is None:
        there = os.path.lexists(goal) if error.errno != errno.ENAMETOOLONG else False
        safe = f"{goal} is as it was before" if there else "nothing was left behind"
    why = error.strerror or str(error) or type(error).__name__
    return WamkitError(f"{goal} cannot be written: {why}", f"{cure}; {safe}")


def _exchange(one: Path, other: Path) -> bool:
    """Let two names change places at one stroke; False, and nothing changed, if that cannot be."""
    sys.audit("wamkit.exchange", str(one), str(other))
    if sys.platform == "win32":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    pair = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin":
        swap = getattr(library, "renamex_np", None)
        return swap is not None and swap(*pair, ctypes.c_uint(_SWAP)) == 0
    rename = getattr(library, "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_HERE, pair[0], _HERE, pair[1], ctypes.c_uint(_SWAP)) == 0)
