"""One cell at work: the verb in a process of its own, and a record of what it came to."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import Any

from ...config.runs import LOG
from ...errors import WamkitError
from ...files import strict_json
from ...files.locking import NAME as LOCK
from .._output import INTERRUPTED
from .records import Record, write_record

RUN = "run"
"""Folder of a cell's training run."""
TAIL = 2**14  # bytes of a log that hold its last lines
PERIOD = 2.0
"""Seconds between two looks at how far a cell is."""
_ENDS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""Signals that end a sweep as Ctrl-C does: a kill, a closed terminal."""
_ERROR = re.compile(r"^error: (.*?)(?=\n\S|\Z)", re.DOTALL | re.MULTILINE)


def is_begun(folder: Path) -> bool:
    """Whether a training run was begun in a cell's folder, which --resume continues."""
    run = folder / RUN
    return run.is_dir() and any(place.name != LOCK for place in run.iterdir())


def last_update(folder: Path) -> str:
    """The last update that a cell's training logged, such as `step 120, loss 0.53`; else empty."""
    try:
        with (folder / RUN / LOG).open("rb") as stream:
            stream.seek(max(0, os.fstat(stream.fileno()).st_size - TAIL))
            lines = stream.read().splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(line)
            return f"step {int(found['step'])}, loss {float(found['loss']):.4g}"
    return ""


def run(
    folder: Path,
    verb: str,
    args: Sequence[str],
    same: str,
    on_wait: Callable[[], None] = lambda: None,
) -> Record:
    """Run `wamkit VERB WORDS --json` in a process of its own and write its record.

    `on_wait` is called every few seconds meanwhile. Its stderr goes to VERB.log. Ctrl-C, SIGTERM
    and SIGHUP are passed on once, so that training ends with a checkpoint; a second one ends it at
    once. The record then says "interrupted".
    """
    write_record(folder, verb, Record(identity=same, state="running"))
    start = perf_counter()
    with (folder / f"{verb}.log").open("wb") as log:
        line = [sys.executable, "-m", "wamkit", verb, *args, "--json"]
        child = start_child(line, log.fileno())
        out, stopped = wait_for(child, on_wait)
    found: dict[str, Any] = {"identity": same, "seconds": perf_counter() - start}
    report = _report(out)
    if stopped or child.returncode == INTERRUPTED:
        record = Record(state="interrupted", **found)
    elif child.returncode == 0 and report is not None:
        record = Record(state="done", report=report, **found)
    else:
        error = _error(folder / f"{verb}.log", child.returncode)
        record = Record(state="failed", error=error, **found)
    write_record(folder, verb, record)
    return record


def start_child(line: Sequence[str], log: int) -> subprocess.Popen[bytes]:
    """A process whose stderr goes to the descriptor `log`; signals reach it from here alone."""
    return subprocess.Popen(
        line,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=log,
        start_new_session=True,
    )


def wait_for(
    child: subprocess.Popen[bytes], on_wait: Callable[[], None] = lambda: None
) -> tuple[bytes, bool]:
    """What the child printed until it ended, and whether it was asked to stop."""
    before = {number: signal.getsignal(number) for number in _ENDS}
    handled = [number for number in _ENDS if before[number] != signal.SIG_IGN]  # nohup ignores one
    with suppress(ValueError):  # not in the main thread
        for number in handled:
            signal.signal(number, _interrupt)
    try:
        while True:
            try:
                return child.communicate(timeout=PERIOD)[0], False
            except subprocess.TimeoutExpired:
                on_wait()
    except KeyboardInterrupt:
        child.terminate()  # which training takes as Ctrl-C, also in the background
        try:
            return child.communicate()[0], True
        except KeyboardInterrupt:
            child.kill()
            return child.communicate()[0], True
    finally:
        with suppress(ValueError):
            for number in handled:
                signal.signal(number, before[number])


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _report(out: bytes) -> dict[str, Any] | None:
    try:
        found = strict_json.loads(out)
    except (ValueError, WamkitError):
        return None
    return found if isinstance(found, dict) else None


def _error(log: Path, code: int) -> str:
    """The error that the verb printed, or its last line."""
    text = log.read_text(errors="replace").strip()
    if found := _ERROR.search(text):
        return found[1].strip()
    last = text.splitlines()[-1:] or [f"it ended with exit code {code} and printed nothing"]
    return last[0]
