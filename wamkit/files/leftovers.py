"""Temporary names for files being written, and the cleanup of those that a crash left behind.

FOLDER/.NAME.HOST-PID-START-COUNT.part    the file or folder NAME, until it is whole
FOLDER/.NAME.HOST-PID-START-COUNT.old     what NAME was before, where a file system can exchange no
                                          two names; it is put back if NAME is missing

The name holds the writer: the host and its process namespace (a checksum), the process id, and when
that process began (clock ticks since the start of the machine), so that another process with the
same id is not mistaken for it. Files of a live process are kept. What a process of another
host wrote is removed once nothing in it has changed for a day.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from itertools import count
from pathlib import Path

PART, OLD = "part", "old"
DAY, HOUR = 86_400.0, 3_600.0
"""Seconds without a change after which a leftover is given up: of another host, of old versions."""
LONGEST = 160  # bytes of a name that is repeated whole in a hidden one
PATIENCE = 2.0  # seconds that a reader waits for a live process between two renames
_HIDDEN = re.compile(r"\.(.+)\.([0-9a-f]{8})-(\d+)-(\d+)-(\d+)\.(part|old)", re.DOTALL)
_OLDER = re.compile(r"\.(.+)\.old\.(?:part|\w{8})", re.DOTALL)
_counts = count()


def temporary_name(goal: Path, kind: str = PART) -> Path:
    """Return a unique temporary name in the folder of `goal`."""
    pid = os.getpid()
    owner = f"{_host()}-{pid}-{_start(pid) or 0}-{next(_counts)}"
    return goal.with_name(f".{shorten_name(goal.name)}.{owner}.{kind}")


def is_leftover(name: str) -> bool:
    """True for a name that `temporary_name` gave."""
    return _HIDDEN.fullmatch(name) is not None


def sweep(folder: Path) -> None:
    """Remove files that dead processes left in `folder`, and undo interrupted replacements.

    What cannot be removed, such as another user's, is passed over.
    """
    recover_all(folder)
    names = _names(folder)
    stems = {shorten_name(name) for name in names}
    for name in names:
        match = _HIDDEN.fullmatch(name)
        if match is None or (match[6] == OLD and match[1] not in stems):
            continue
        if not _is_alive(match, folder / name):
            remove(folder / name)


def sweep_older(goal: Path) -> None:
    """Remove temporary files of older versions of wamkit for `goal`, once an hour old."""
    recover(goal)
    old = re.compile(
        rf"\.{re.escape(goal.name)}\.(part|part-link|part\.png|old\.part|(old\.)?\w{{8}})"
    )
    for name in _names(goal.parent):
        place = goal.with_name(name)
        if old.fullmatch(name) and _age(place) > HOUR:
            remove(place)


def recover_all(folder: Path) -> None:
    """Undo every interrupted replacement in `folder`."""
    for name in _names(folder):
        match = _HIDDEN.fullmatch(name)
        if match is None:
            older = _OLDER.fullmatch(name)
            lost = older[1] if older else None
        else:
            waits = match[6] == PART or _is_shortened(match[1]) or _is_alive(match, folder / name)
            lost = None if waits else match[1]
        if lost is not None:
            recover(folder / lost)


def recover(goal: Path) -> Path:
    """Return `goal`, after undoing an interrupted replacement of it or of a parent folder.

    Where nothing can be renamed (a file system that is only read) this is the place where it lies.
    If there is nothing to put back, `goal` is returned as it is, and is not there.
    """
    if os.path.lexists(goal) or goal == goal.parent:
        return goal
    place = recover(goal.parent) / goal.name
    end = time.monotonic() + PATIENCE
    while not os.path.lexists(place):
        found = _find_backup(place)
        if found is None:
            return place
        backup, alive = found
        if not alive:
            return _put_back(backup, place)
        if time.monotonic() > end:
            return backup
        time.sleep(0.05)
    return place


def inside(file: Path, goal: Path) -> str | None:
    """Map a file in the temporary folder of `goal` to its final path; None for other files."""
    if goal.parent not in file.parents:
        return None
    first, *rest = file.relative_to(goal.parent).parts
    match = _HIDDEN.fullmatch(first)
    return "/".join(rest) if match and match[1] == shorten_name(goal.name) else None


def discard(place: Path) -> None:
    """Remove `place`; an interruption leaves no partial content under its name."""
    gone = temporary_name(place)
    os.rename(place, gone)
    remove(gone)


def remove(place: Path) -> None:
    """Remove a file, a link or a whole folder, ignoring errors."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place, ignore_errors=True)
    else:
        with suppress(OSError):
            place.unlink(missing_ok=True)


def _find_backup(goal: Path) -> tuple[Path, bool] | None:
    """Find the backup of `goal` from an unfinished replacement, and whether its writer is alive."""
    for name in sorted(_names(goal.parent), reverse=True):
        place = goal.with_name(name)
        match = _HIDDEN.fullmatch(name)
        if match is not None and match[6] == OLD and match[1] == shorten_name(goal.name):
            return place, _is_alive(match, place)
        older = _OLDER.fullmatch(name)
        if match is None and older is not None and older[1] == goal.name:
            inner = place if name.endswith(".part") else place / "old"
            if inner.exists():
                return inner, False
    return None


def _put_back(backup: Path, goal: Path) -> Path:
    """Move the backup to `goal`; return its path, which is still `backup` if renaming fails."""
    try:
        os.rename(backup, goal)
    except OSError:
        return goal if os.path.lexists(goal) else backup
    return goal


def shorten_name(name: str) -> str:
    """Shorten a name so that its temporary name fits the limit of the file system."""
    raw = os.fsencode(name)
    if len(raw) <= LONGEST:
        return name
    return f"{raw[:60].decode(errors='ignore')}~{zlib.crc32(raw):08x}"


def _is_shortened(stem: str) -> bool:
    return re.search(r"~[0-9a-f]{8}$", stem) is not None


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except (OSError, ValueError):
        return []


def _is_alive(match: re.Match[str], place: Path) -> bool:
    """True if the process in a temporary name may still write."""
    host, pid, start = match[2], int(match[3]), int(match[4])
    if host != _host() or sys.platform == "win32":
        return _age(place) < DAY
    return is_running(pid, start)


def is_running(pid: int, start: int = 0) -> bool:
    """True if this process of this host runs; `start` (clock ticks, 0 if unknown) must be its."""
    if sys.platform == "win32":  # there a signal of 0 is no question
        return True
    found = _start(pid)
    if found is not None:
        return start in (0, found)
    if sys.platform == "linux" and Path("/proc/self/stat").exists():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _start(pid: int) -> int | None:
    """When a process began, in clock ticks; None if it ended, or where there is no /proc."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text.rpartition(b")")[2].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])


@lru_cache(maxsize=1)
def _host() -> str:
    """A checksum of the host and of the namespace that process ids are counted in."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"


def _age(place: Path) -> float:
    """Seconds since anything at `place` or below it was changed."""
    return time.time() - max(_changes(place), default=0.0)


def _changes(place: Path) -> Iterator[float]:
    for path in (place, *(place.rglob("*") if not place.is_symlink() else ())):
        with suppress(OSError):
            yield path.lstat().st_mtime
