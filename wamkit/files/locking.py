"""A lock on a folder: one process at a time writes there, and a dead one locks nothing.

    with lock(run, cure="choose another --out"):
        ...

The lock is one of the operating system (lockf) on FOLDER/.lock, which it drops when the process
ends, however it ends; processes forked from the holder, such as those that load data, do not hold
it. The file names its holder. Where a file system has no locks, that text is believed as long as
the process runs. Checks for an empty folder ignore the file (`NAME`).
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import WamkitError
from .durable import as_not_written, make_folder
from .leftovers import is_running, shorten_name

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_BUSY = (errno.EAGAIN, errno.EACCES)
_held: set[Path] = set()  # a lock of lockf is the process's: it does not see itself


@contextmanager
def lock(
    folder: Path, hint: str = "choose another folder", *, outside: bool = False
) -> Iterator[None]:
    """Lock `folder`, created if missing, until the block ends.

    `outside`: for a folder that is replaced while it is held; the file is then its neighbor,
    .NAME.lock, and the folder is not made. Raises WamkitError with the process and the host that
    hold it, and with `hint`; also if the file system is read-only.
    """
    with as_not_written(folder):
        make_folder(folder.parent if outside else folder)
        name = f".{shorten_name(folder.name)}{NAME}" if outside else NAME
        file = Path(os.path.realpath(folder.parent if outside else folder), name)
        if file in _held:  # not read: closing it again would give up the lock
            raise _locked_error(folder, (os.getpid(), socket.gethostname()), hint)
        _held.add(file)
        try:
            handle = _acquire(folder, file, hint)
        except BaseException:
            _held.discard(file)
            raise
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(
                missing_ok=True
            )  # while it is held, so that no process locks an unlinked file
        os.close(handle)
        _held.discard(file)


def _acquire(folder: Path, file: Path, hint: str) -> int:
    """Open and lock the file; afterwards its name still refers to it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            got = _try_lock(handle)
            if got is False or (got is None and _is_used(file)):
                raise _locked_error(folder, _holder(file), hint)
            if _is_same(handle, file):
                with suppress(OSError):  # on a full disk the holder is not recorded
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder removed it while this one waited


def _try_lock(handle: int) -> bool | None:
    """True if this process now holds the lock, False if another does, None if there are none."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def _is_same(handle: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except OSError:
        return False


def _holder(file: Path) -> tuple[int, str] | None:
    """Process id and host of the lock holder, from the file."""
    try:
        pid, _, host = file.read_text().strip().partition(" ")
        return int(pid), host
    except (OSError, ValueError):
        return None


def _is_used(file: Path) -> bool:
    """True if the process that the file names runs on this host."""
    holder = _holder(file)
    return holder is not None and holder[1] == socket.gethostname() and is_running(holder[0])


def _locked_error(folder: Path, holder: tuple[int, str] | None, hint: str) -> WamkitError:
    who = "another process" if holder is None else f"process {holder[0]} on {holder[1]}"
    return WamkitError(
        f"{folder} is in use: {who} writes there",
        f"wait until it has ended, or stop it; or {hint}",
    )
