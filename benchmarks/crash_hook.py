"""Every change that a command makes on disk, and a kill before any of them; Linux alone.

A forked process installs a filter of seccomp (Linux 5.5, no privileges) which stops each system
call that changes a file until this process has looked at it. So changes are seen in one order,
whoever makes them: Python, C++, Rust, threads and processes that the command starts.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATH, TWO, AT, ATS, TARGET, TARGET_AT, FILE, WHOLE = range(8)
"""Where a system call names what it changes: its arguments are a path, two paths, a folder and a
path, two of each, text and a path, text and a folder and a path, a file, or nothing."""

# name -> (number on x86_64, number on aarch64, what its arguments are)
CALLS: dict[str, tuple[int | None, int | None, int]] = {
    "open": (2, None, PATH),
    "creat": (85, None, PATH),
    "openat": (257, 56, AT),
    "openat2": (437, 437, AT),
    "write": (1, 64, FILE),
    "pwrite64": (18, 68, FILE),
    "writev": (20, 66, FILE),
    "pwritev": (296, 70, FILE),
    "pwritev2": (328, 287, FILE),
    "ftruncate": (77, 46, FILE),
    "fallocate": (285, 47, FILE),
    "sendfile": (40, 71, FILE),
    "truncate": (76, 45, PATH),
    "rename": (82, None, TWO),
    "renameat": (264, 38, ATS),
    "renameat2": (316, 276, ATS),
    "link": (86, None, TWO),
    "linkat": (265, 37, ATS),
    "symlink": (88, None, TARGET),
    "symlinkat": (266, 36, TARGET_AT),
    "unlink": (87, None, PATH),
    "unlinkat": (263, 35, AT),
    "mkdir": (83, None, PATH),
    "mkdirat": (258, 34, AT),
    "rmdir": (84, None, PATH),
    "fsync": (74, 82, FILE),
    "fdatasync": (75, 83, FILE),
    "sync": (162, 81, WHOLE),
    "syncfs": (306, 267, WHOLE),
}
KEEPS = ("fsync", "fdatasync", "sync", "syncfs")
"""Calls that change nothing, and make sure that what was changed stays."""
WRITES = ("write", "pwrite64", "writev", "pwritev", "pwritev2", "sendfile")
RENAMES = ("rename", "renameat", "renameat2")
EXCHANGE = 2  # RENAME_EXCHANGE of linux/fs.h
HERE = -100  # AT_FDCWD: paths are relative to the working folder
COPIED = {"copy_file_range": (326, 285)}  # its file is the third argument
MACHINES = {"x86_64": (0, 317, 0xC000003E), "aarch64": (1, 277, 0xC00000B7)}
"""Machine -> its column in CALLS, the number of seccomp(2), its name in linux/audit.h."""
RECEIVE, GO_ON = 0xC0502100, 0xC0182101  # SECCOMP_IOCTL_NOTIF_RECV and _SEND
ALLOW, ASK = 0x7FFF0000, 0x7FC00000  # SECCOMP_RET_ALLOW and _USER_NOTIF


@dataclass(frozen=True)
class Change:
    """One system call that changes what is on disk, or keeps it there."""

    call: str
    path: Path
    goal: Path | None = None  # of a rename or a link
    exchange: bool = False


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int | None  # None if it was killed
    changes: tuple[Change, ...]  # below the folder, those of KEEPS among them


def available() -> bool:
    """True if this kernel lets a process without privileges be watched so."""
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        return False
    try:
        return follow(lambda: 0, Path("/nowhere"), Path(os.devnull)).code == 0
    except OSError:
        return False


def follow(
    act: Callable[[], int], folder: Path, output: Path, kill_before: int | None = None
) -> Ended:
    """Run `act` in a forked process, and kill it before its change number `kill_before`, from 1.

    Changes are counted below `folder` alone. Of writes to one file that follow each other the first
    two count: they leave it empty, and in part. What it prints goes to the file `output`. Raises
    OSError if the process cannot be watched.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _act(act, theirs, output)
    theirs.close()
    try:
        listener = _received(ours)
        changes: list[Change] = []
        try:
            killed = _watch(listener, child, folder, kill_before, changes)
        finally:
            code = _end(child)
            os.close(listener)
    finally:
        ours.close()
    return Ended(None if killed else code, tuple(changes))


def _act(act: Callable[[], int], theirs: socket.socket, output: Path) -> None:
    """What the forked process does; it does not return."""
    code = 70
    try:
        os.setsid()
        atexit._clear()  # what this process was forked from ends by itself, such as its renderers
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            listener = _filter()
        except OSError as error:
            theirs.send(struct.pack("i", error.errno or errno.EIO))
            os._exit(code)
        socket.send_fds(theirs, [struct.pack("i", 0)], [listener])
        os.close(listener)
        theirs.close()
        try:
            code = act()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _received(ours: socket.socket) -> int:
    message, files, _, _ = socket.recv_fds(ours, 4, 1)
    problem = struct.unpack("i", message)[0] if len(message) == 4 else errno.EIO
    if not files:
        raise OSError(problem, f"seccomp: {os.strerror(problem)}")
    return files[0]


def _watch(
    listener: int, child: int, folder: Path, kill_before: int | None, changes: list[Change]
) -> bool:
    """Let each call go on, and note it, until there are no more or it is time to kill."""
    column = MACHINES[platform.machine()][0]
    names = {numbers[column]: name for name, numbers in CALLS.items()}
    names |= {numbers[column]: name for name, numbers in COPIED.items()}
    poll, count, row = select.poll(), 0, 0
    poll.register(listener, select.POLLIN)
    while True:
        event = poll.poll()[0][1]
        if not event & select.POLLIN:
            return False
        notice = bytearray(80)
        try:
            fcntl.ioctl(listener, RECEIVE, notice)
        except OSError as error:  # whoever asked is gone
            if error.errno in (errno.ENOENT, errno.EINTR):
                continue
            raise
        mark, thread, _, number, _, _, *arguments = struct.unpack("QIIiIQ6Q", notice)
        change = _change(names[number], thread, arguments)
        if change is not None and _below(change, folder):
            same = change.call in WRITES and changes and changes[-1] == change
            row = row + 1 if same else 1
            if change.call not in KEEPS and row <= 2:
                count += 1
                if count == kill_before:
                    os.killpg(child, signal.SIGKILL)
                    return True
            changes.append(change)
        with suppress(FileNotFoundError):  # it was killed meanwhile
            fcntl.ioctl(listener, GO_ON, bytearray(struct.pack("QqiI", mark, 0, 0, 1)))


def _end(child: int) -> int:
    """Wait for the process and those that it started, and give its exit code."""
    _, status = os.waitpid(child, 0)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    while True:  # those that it started come to this process, see `adopt`
        try:
            os.waitpid(-child, 0)
        except ChildProcessError:
            return os.waitstatus_to_exitcode(status)


def adopt() -> None:
    """Let processes whose parent was killed become children of this one, which waits for them."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


def _below(change: Change, folder: Path) -> bool:
    paths = (change.path, *([change.goal] if change.goal else []))
    return change.call in ("sync", "syncfs") or any(path.is_relative_to(folder) for path in paths)


def _change(call: str, thread: int, registers: list[int]) -> Change | None:
    """What a call is about to change; None if it changes nothing."""
    if call in COPIED:
        return Change("write", _file(thread, registers[2]))
    form = CALLS[call][2]
    if form == WHOLE:
        return Change(call, Path("/"))
    if form == FILE:
        return Change(call, _file(thread, registers[0]))
    if form == TWO:
        return Change(call, _path(thread, HERE, registers[0]), _path(thread, HERE, registers[1]))
    if form == ATS:
        exchanges = call == "renameat2" and bool(registers[4] & EXCHANGE)
        here, there = (
            _path(thread, registers[0], registers[1]),
            _path(thread, registers[2], registers[3]),
        )
        return Change(call, here, there, exchanges)
    if form == TARGET:
        return Change(call, _path(thread, HERE, registers[1]))
    if form == TARGET_AT:
        return Change(call, _path(thread, registers[1], registers[2]))
    path = (
        _path(thread, registers[0], registers[1])
        if form == AT
        else _path(thread, HERE, registers[0])
    )
    if call in ("open", "openat", "openat2"):
        flags = registers[1 if call == "open" else 2]
        if call == "openat2":
            flags = struct.unpack("Q", _memory(thread, registers[2], 8))[0]
        makes = bool(flags & os.O_CREAT) and not os.path.lexists(path)
        if not makes and not (flags & os.O_TRUNC and path.exists()):
            return None
    return Change(call, path)


def _file(thread: int, number: int) -> Path:
    try:
        return Path(os.readlink(f"/proc/{thread}/fd/{number & 0xFFFFFFFF}"))
    except OSError:
        return Path("/nowhere")


def _path(thread: int, folder: int, address: int) -> Path:
    folder = (folder & 0xFFFFFFFF) - (1 << 32) if folder & 0x80000000 else folder
    name = os.fsdecode(_memory(thread, address, 4096).partition(b"\0")[0])
    start = "cwd" if folder == HERE else f"fd/{folder}"
    return Path(os.path.normpath(os.path.join(os.readlink(f"/proc/{thread}/{start}"), name)))


def _memory(thread: int, address: int, count: int) -> bytes:
    """Bytes of the process's memory, up to the end of their page if no more can be read."""
    with open(f"/proc/{thread}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        try:
            return memory.read(count)
        except OSError:
            memory.seek(address)
            return memory.read(4096 - address % 4096)


def _filter() -> int:
    """Let this process ask before each of the calls; the file by which it is answered."""
    column, seccomp, machine = MACHINES[platform.machine()]
    numbers = {name: calls[column] for name, calls in CALLS.items() if calls[column] is not None}
    numbers |= {name: calls[column] for name, calls in COPIED.items()}
    opening = {"open": 24, "openat": 32}  # offset of the flags, see struct seccomp_data
    flags = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    asked = [number for name, number in numbers.items() if name not in opening]
    handles = [(numbers[name], offset) for name, offset in opening.items() if name in numbers]
    load, equal, some, end = 0x20, 0x15, 0x45, 0x06
    # positions: arch, its check, its answer, number, the calls, the openings, allow; then the tails
    tails = 4 + len(asked) + len(handles) + 1
    ask = tails + 2 * len(handles) + 1
    code = [(load, 0, 0, 4), (equal, 1, 0, machine), (end, 0, 0, ALLOW), (load, 0, 0, 0)]
    for number in asked:
        code.append((equal, ask - len(code) - 1, 0, number or 0))
    for place, (number, _) in enumerate(handles):
        code.append((equal, tails + 2 * place - len(code) - 1, 0, number or 0))
    code.append((end, 0, 0, ALLOW))
    for _, offset in handles:
        code.append((load, 0, 0, offset))
        code.append((some, ask - len(code) - 1, ask - len(code) - 2, flags))
    code += [(end, 0, 0, ALLOW), (end, 0, 0, ASK)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxQ", len(code), ctypes.addressof(packed))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):  # PR_SET_NO_NEW_PRIVS
        raise OSError(ctypes.get_errno(), "prctl")
    made = libc.syscall(seccomp, 1, 1 << 3, ctypes.create_string_buffer(program))
    if made < 0:  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER
        raise OSError(ctypes.get_errno(), "seccomp")
    return int(made)


def unkept(changes: tuple[Change, ...]) -> Iterator[Path]:
    """What got its place by a rename and would be lost with the power: it, or its name.

    A file or folder that was not written to the disk (fsync) before it was renamed, and a folder
    that was not afterwards.
    """
    dirty: set[Path] = set()
    renamed: set[Path] = set()
    for change in changes:
        paths = (change.path, change.goal) if change.goal is not None else (change.path,)
        if change.call in ("sync", "syncfs"):
            dirty.clear()
        elif change.call in KEEPS:
            dirty.discard(change.path)
        elif change.call in RENAMES and change.goal is not None:
            new, old = _under(dirty, change.path), _under(dirty, change.goal)
            if new:
                yield change.goal
            dirty -= _at(change.path, new) | _at(change.goal, old)
            dirty |= _at(change.goal, new) | (_at(change.path, old) if change.exchange else set())
            dirty |= {path.parent for path in paths}
            renamed.add(change.goal.parent)
        elif change.call in ("unlink", "unlinkat", "rmdir"):
            dirty -= _at(change.path, _under(dirty, change.path))
        else:
            dirty.add(paths[-1])
            if change.call not in (*WRITES, "ftruncate", "fallocate", "truncate"):
                dirty.add(paths[-1].parent)
                if change.call in ("symlink", "symlinkat", "link", "linkat"):
                    dirty.discard(paths[-1])
    yield from sorted(dirty & renamed)


def _under(paths: set[Path], place: Path) -> set[Path]:
    """The paths at or below a place, relative to it."""
    return {path.relative_to(place) for path in paths if path.is_relative_to(place)}


def _at(place: Path, paths: set[Path]) -> set[Path]:
    return {place / path for path in paths}
