"""Files and folders written atomically, so that neither a crash nor a full disk loses one.

A file:     `write_text(file, text)`, `write_bytes(file, data)`, or, where a library writes it,

                with replacing(file) as part:
                    image.save(part, format="PNG")

A folder:   with replacing_folder(goal) as part:
                (part / "spec.yaml").write_text(...)

Either is written under a hidden name in the same folder (`wamkit.files.leftovers`), flushed to the
disk, and then takes the place of what was there, atomically. Before anything is written, what
dead processes left in that folder is removed, so that a disk they filled has room again. What the
file system refuses is raised as `NotWrittenError`, which names the file and what is safe; `safe`
is the caller's sentence for the latter. Blocks may be nested: the outermost names its file or
folder.

A folder that is made in several steps, or by several processes: take `part = hidden(goal)`, once,
in the process that lives longest (its id is in the name, and while it lives nobody sweeps the
part); fill it; then `replace_folder(part, goal)`. Call `sweep(folder)` before, and `recover(goal)`
before reading what may have been replaced. `wamkit.files.locking.lock` keeps a second process out.

A folder is replaced by exchanging two names (renameat2 on Linux, renamex_np on macOS), which a
kill cannot split; `sys.audit("wamkit.exchange", new, goal)` reports it. Where the file system
cannot, the old folder is renamed first: a kill between leaves it under a hidden name, and the next
`recover` or `sweep` puts it back.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import WamkitError
from .leftovers import (
    OLD,
    discard,
    inside,
    recover,
    recover_all,
    remove,
    sweep,
    sweep_older,
    temporary_name,
)

__all__ = [
    "NotWrittenError",
    "as_not_written",
    "discard",
    "make_folder",
    "recover",
    "recover_all",
    "remove",
    "replace_folder",
    "replacing",
    "replacing_folder",
    "sweep",
    "sync",
    "sync_tree",
    "temporary_name",
    "write_bytes",
    "write_text",
]

_SWAP = 2  # RENAME_EXCHANGE of Linux, and RENAME_SWAP of macOS
_HERE = -100  # AT_FDCWD
_FULL = (errno.ENOSPC, errno.EDQUOT)
_CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
_OF_DISKS = (*_FULL, *_CLOSED, errno.EFBIG, errno.EIO, errno.ESTALE)
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES)


class NotWrittenError(WamkitError):
    """The file system refused to write a file or folder: why, what to do, which data is safe."""

    def __init__(
        self, goal: Path, error: OSError, safe: str | None = None, within: str = ""
    ) -> None:
        """`within` names what in `goal` was refused, if it was not `goal` itself."""
        self.goal, self.error = goal, error
        if safe is None:
            is_there = error.errno != errno.ENAMETOOLONG and os.path.lexists(goal)
            safe = f"{goal} is as it was before" if is_there else "nothing was left behind"
        why = error.strerror or str(error) or type(error).__name__
        what = f"{goal} cannot be written: {within}{': ' if within else ''}{why}"
        super().__init__(what, f"{_hint_for(error)}; {safe}")


def _hint_for(error: OSError) -> str:
    if error.errno in _FULL:
        return "make room, and do it again"
    if error.errno == errno.EFBIG:
        return "raise the limit on the size of files (ulimit -f), and do it again"
    if error.errno in _CLOSED:
        return "make it writable, or choose another place"
    if error.errno == errno.ENAMETOOLONG:
        return "choose a shorter name"
    return "choose another place"


def write_text(file: str | Path, text: str, safe: str | None = None) -> None:
    """Write text in UTF-8 to `file` atomically. Raises NotWrittenError."""
    write_bytes(file, text.encode(), safe)


def write_bytes(file: str | Path, data: bytes, safe: str | None = None) -> None:
    """Write `data` to `file` atomically. Raises NotWrittenError."""
    with replacing(file, safe) as part:
        part.write_bytes(data)


@contextmanager
def replacing(file: str | Path, safe: str | None = None) -> Iterator[Path]:
    """Yield a temporary path; when the block ends, that file replaces `file` atomically.

    An error in the block leaves `file` as it was. Its folder must be there. A device or a pipe is
    written to directly. Raises NotWrittenError if the file system refuses.
    """
    goal = Path(file)
    with as_not_written(goal, safe):
        if goal.exists() and not goal.is_file() and not goal.is_dir():
            yield goal
            return
        sweep(goal.parent)
        sweep_older(goal)
        part = temporary_name(goal)
        try:
            yield part
            sync(part)
            os.replace(part, goal)
            sync(goal.parent)
        finally:
            remove(part)


@contextmanager
def replacing_folder(goal: str | Path, safe: str | None = None) -> Iterator[Path]:
    """Yield a new temporary folder; when the block ends, it replaces `goal`.

    An error in the block leaves `goal` as it was. Folders above it are made. A link at `goal` is
    replaced, and what it points to is left alone. Raises NotWrittenError for what the file system
    refuses.
    """
    goal = Path(goal)
    with as_not_written(goal, safe):
        sweep(goal.parent)
        sweep_older(goal)
        part, made = temporary_name(goal), list[Path]()
        try:
            made = make_folder(goal.parent)
            part.mkdir()
            yield part
            replace_folder(part, goal)
        except BaseException:
            remove(part)
            for folder in made:
                with suppress(OSError):
                    folder.rmdir()
            raise


def replace_folder(new: Path, goal: Path) -> None:
    """Replace the folder `goal` by `new`, then remove the old content.

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
        old = temporary_name(goal, OLD)
        os.rename(goal, old)
        try:
            os.rename(new, goal)
        except OSError:
            os.rename(old, goal)
            raise
    sync(goal.parent)
    remove(old)


def make_folder(folder: Path) -> list[Path]:
    """Create `folder` and its parents durably: a crash cannot lose them.

    Returns those that were not there, the innermost first.
    """
    missing, there = list[Path](), folder
    while not there.exists() and there != there.parent:
        missing.append(there)
        there = there.parent
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)
    return missing


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
def as_not_written(goal: Path, safe: str | None = None) -> Iterator[None]:
    """Raise OSErrors of the block as `NotWrittenError` that names `goal`.

    Other errors pass, also those of files that have nothing to do with `goal`.
    """
    try:
        yield
    except NotWrittenError as inner:
        within = inside(inner.goal, goal)
        if within is None:
            raise
        raise NotWrittenError(goal, inner.error, safe, within) from None
    except OSError as error:
        if not _concerns(error, goal):
            raise
        raise NotWrittenError(goal, error, safe) from None


def _concerns(error: OSError, goal: Path) -> bool:
    """True if the error concerns `goal`, its temporary files, or an unnamed disk."""
    if not isinstance(error.filename, str):
        return error.errno is None or error.errno in _OF_DISKS
    file = Path(error.filename)
    return file in (goal, *goal.parents) or inside(file, goal) is not None


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names atomically; return False, with nothing changed, if that is unsupported."""
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
