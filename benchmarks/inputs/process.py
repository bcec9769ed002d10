"""Run one command in a fork of this warm process, within limits, and see what it changed."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from .case import Outcome

MEMORY = 4 * 2**30
"""Bytes that a command may hold beyond what the warm process holds."""
SECONDS = 30
"""Processor time of a command; it may take four times as long where the processor is shared."""
BIG = 8 * 2**20
"""Files beyond this are compared by size and time, not by their bytes."""


def warm() -> None:
    """Import what commands import, on one thread, so that a fork finds it."""
    import gc
    import importlib

    import torch

    torch.set_num_threads(1)
    names = ["numpy", "yaml", "pyarrow.parquet", "av", "safetensors.torch", "rich.console"]
    names += ["rich.progress", "transformers", "transformers.models.t5.modeling_t5"]
    names += [
        "torch.distributed.checkpoint",
        "torch.distributed.checkpoint.state_dict",
        "PIL.Image",
    ]
    names += [
        "wamkit.cli",
        "wamkit.policy.policy",
        "wamkit.acceleration.quantize",
        "wamkit.data",
        "wamkit.checkpoints.prune",
    ]
    names += [
        "wamkit.train.trainer",
        "wamkit.train.config",
        "wamkit.policy.precomputed_text",
        "wamkit.data.encoding",
    ]
    for name in names:
        importlib.import_module(name)
    from PIL import Image

    from wamkit.cli import VERBS
    from wamkit.config.registry import registry

    Image.init()
    for module in VERBS.values():
        importlib.import_module(f"wamkit.cli.{module}")
    registry()
    gc.collect()
    gc.freeze()


def run(command: Sequence[str], place: Path) -> Outcome:
    """Type `wamkit COMMAND` in `place/here`; everything else below `place` is its surroundings.

    `place/home` is the home, `place/tmp` the folder of temporary files.
    """
    here = place / "here"
    for name in ("home", "tmp"):
        (place / name).mkdir(exist_ok=True)
    before = snapshot(place)
    streams = [place.parent / f"{place.name}.{name}" for name in ("out", "err")]
    base = _resident(os.getpid())
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        _type(command, here, place, streams)
    limit, peak, status, used = _watch(child, began, base)
    texts = [stream.read_text(encoding="utf-8", errors="replace") for stream in streams]
    for stream in streams:
        stream.unlink()
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGXCPU:
        limit = "time"
    spent = used.ru_utime + used.ru_stime
    changed = differences(before, snapshot(place))
    return Outcome(code, *texts, spent, peak, limit, changed)


def _type(command: Sequence[str], here: Path, place: Path, streams: Sequence[Path]) -> None:
    """What the child does; it never returns."""
    code = 70
    try:
        os.setsid()
        os.chdir(here)
        for number, stream in enumerate(streams, 1):
            os.dup2(os.open(stream, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (1, 2):
            name = ("stdout", "stderr")[number - 1]
            stream = os.fdopen(number, "w", encoding="utf-8", buffering=1, closefd=False)
            setattr(sys, name, stream)
        os.environ |= {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp")}
        os.environ["MPLCONFIGDIR"] = str(place.parent / "matplotlib")  # its list of fonts
        os.environ |= {"HF_HUB_OFFLINE": "1", "XDG_CACHE_HOME": str(place / "home" / ".cache")}
        import tempfile

        tempfile.tempdir = None
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
        data = _private() + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (data, data))
        sys.argv = ["wamkit", *command]
        from wamkit.cli import main

        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 71
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _watch(child: int, began: float, base: int) -> tuple[str, int, int, resource.struct_rusage]:
    """Wait for the child; kill what goes beyond a limit. Limit, peak, status, what it used."""
    limit, peak, pause = "", 0, 0.002
    while True:
        done, status, used = os.wait4(child, os.WNOHANG)
        if done:
            _end(child)  # whom it left behind
            return limit, max(peak, 0), status, used
        peak = max(peak, _resident(child) - base)
        if peak > MEMORY:
            limit = "memory"
        elif time.monotonic() - began > 4 * SECONDS:
            limit = "time"
        if limit:
            _end(child)
        time.sleep(pause)
        pause = min(pause * 1.3, 0.05)


def _end(child: int) -> None:
    """Kill the group of processes that the child leads, if any is left."""
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return


def _resident(process: int) -> int:
    """Bytes of a process that are its own: in memory and of no file; 0 where it has ended."""
    try:
        fields = Path(f"/proc/{process}/statm").read_text().split()
    except (OSError, ProcessLookupError):
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def _private() -> int:
    """Bytes of writable memory of this process, as RLIMIT_DATA counts them."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmData:")[2].split()[0])


def snapshot(place: Path) -> Mapping[str, str]:
    """What lies below a folder, without following links: path -> what tells it from another."""
    found = {}
    for folder, folders, files in os.walk(place):
        for name in [*folders, *files]:
            path = Path(folder, name)
            found[str(path.relative_to(place))] = _mark(path)
    return found


def _mark(path: Path) -> str:
    if path.is_symlink():
        return f"link {os.readlink(path)}"
    if path.is_dir():
        return "folder"
    if not path.is_file():
        return "special"
    size = path.stat().st_size
    if size > BIG:
        return f"{size} {path.stat().st_mtime_ns}"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except PermissionError:
        return "closed"


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[str, ...]:
    """`+new`, `~changed` and `-removed` paths."""
    made = [f"+{name}" for name in after if name not in before]
    gone = [f"-{name}" for name in before if name not in after]
    other = [f"~{name}" for name in after if name in before and before[name] != after[name]]
    return tuple(sorted([*made, *gone, *other], key=lambda line: line[1:]))
