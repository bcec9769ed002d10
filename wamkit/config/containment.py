"""Runs a plugin's own code without letting it end, redirect or change the process around it."""

from __future__ import annotations

import builtins
import logging
import os
import random
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from io import StringIO
from typing import Any

from .guards import Shared, guarded

NOTE_LENGTH = 120


@contextmanager
def contained(package: str = "") -> Iterator[list[str]]:
    """Undo what the block does to the process, and say what that was.

    Standard output and error (of Python, of C and of child processes), the environment, the
    working directory, `sys.argv`, the hooks for exceptions, the filters of warnings, the root
    logger, signal handlers and timers, the locale, the default random generator, and the functions
    of Python, its standard library and wamkit are as before afterwards. A thread cannot be started,
    nor the process ended; an exit handler runs, and what it prints is lost. `sys.path` and import
    hooks stay: a package may need them for the rest of itself.

    Args:
        package: Top-level package of the plugin; its own imports of torch are noted.

    Yields:
        A list that holds one note for each trace after the block has ended.
    """
    notes: list[str] = []
    printed = StringIO()
    before = _Snapshot()
    with ExitStack() as stack:
        stack.callback(before.restore, notes)
        sink = stack.enter_context(_redirect())
        stack.enter_context(redirect_stdout(printed))
        stack.enter_context(redirect_stderr(printed))
        with _imports_of_torch(package) as found, guarded(_quietly):
            try:
                yield notes
            finally:
                sink.seek(0)
                text = " ".join((printed.getvalue() + sink.read().decode(errors="replace")).split())
                if text:
                    short = text if len(text) <= NOTE_LENGTH else text[:NOTE_LENGTH] + "..."
                    notes.append(f"printed {short!r}")
                if found:
                    notes.append(TORCH)


TORCH = "imported torch"
"""The note of a plugin that imports torch when it is imported."""


class _Snapshot:
    """What a process has that every module can reach."""

    def __init__(self) -> None:
        root = logging.root
        self.environ = dict(os.environ)
        self.folder = _folder()
        self.argv = list(sys.argv)
        self.hooks = (sys.excepthook, sys.displayhook, warnings.showwarning)
        self.filters = list(warnings.filters)
        self.log = (root.level, list(root.handlers), root.manager.disable)
        self.random = random.getstate()
        self.builtins = dict(vars(builtins))
        self.limit = sys.getrecursionlimit()
        self.signals = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        self.shared = Shared()

    def restore(self, notes: list[str]) -> None:
        """Put everything back, with a note for each thing that a user could have noticed."""
        now = dict(os.environ)
        for key in sorted(now.keys() | self.environ.keys()):
            if now.get(key) != self.environ.get(key):
                notes.append(f"changed the environment variable {key}")
                if key in self.environ:
                    os.environ[key] = self.environ[key]
                else:
                    del os.environ[key]
        if self.folder is not None and _folder() != self.folder:
            notes.append("changed the working directory")
            os.chdir(self.folder)
        if sys.argv != self.argv:
            notes.append("changed sys.argv")
            sys.argv[:] = self.argv
        hooks = (sys.excepthook, sys.displayhook, warnings.showwarning)
        if hooks != self.hooks:
            notes.append("replaced a hook of sys or warnings")
            sys.excepthook, sys.displayhook, warnings.showwarning = self.hooks
        if list(warnings.filters) != self.filters:
            warnings.filters[:] = self.filters  # type: ignore[index]
            getattr(warnings, "_filters_mutated", lambda: None)()
        root = logging.root
        if (root.level, root.handlers, root.manager.disable) != self.log:
            notes.append("configured the root logger")
            root.setLevel(self.log[0])
            root.handlers[:] = self.log[1]
            logging.disable(self.log[2])
        random.setstate(self.random)
        sys.setrecursionlimit(self.limit)
        table = builtins.__dict__
        changed = [k for k, v in self.builtins.items() if table.get(k) is not v]
        if changed := changed + [k for k in table if k not in self.builtins and k != "_"]:
            notes.append(f"changed the built-in functions {', '.join(sorted(changed))}")
            for key in changed:
                if key in self.builtins:
                    table[key] = self.builtins[key]
                else:
                    del table[key]
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.signals.items():
                if signal.getsignal(number) is not handler and handler is not None:
                    notes.append(f"replaced the handler of {signal.Signals(number).name}")
                    signal.signal(number, handler)
        self.shared.restore(notes)


def _folder() -> str | None:
    """The working directory, or None if it has been removed."""
    try:
        return os.getcwd()
    except OSError:
        return None


@contextmanager
def _redirect() -> Iterator[Any]:
    """File descriptors 1 and 2 lead into a temporary file, which is yielded."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    saved: dict[int, int] = {}
    with tempfile.TemporaryFile() as sink:
        for number in (1, 2):
            with suppress(OSError):  # a process may have closed them
                saved[number] = os.dup(number)
                os.dup2(sink.fileno(), number)
        try:
            yield sink
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)


def _quietly(function: Callable[[], Any]) -> None:
    """Call it; what it prints, or complains of, reaches nobody."""
    lost = StringIO()
    with _redirect(), redirect_stdout(lost), redirect_stderr(lost), suppress(BaseException):
        function()


@contextmanager
def _imports_of_torch(package: str) -> Iterator[list[str]]:
    """A list that is not empty if torch was loaded, or modules of `package` imported it."""
    found: list[str] = []
    loaded = "torch" in sys.modules
    plain = builtins.__import__

    def watched(name: str, globals: Any = None, *rest: Any, **more: Any) -> Any:
        if name.partition(".")[0] == "torch" and isinstance(globals, dict):
            importer = str(globals.get("__name__", ""))
            if package and importer.partition(".")[0] == package:
                found.append(importer)
        return plain(name, globals, *rest, **more)

    builtins.__import__ = watched
    try:
        yield found
    finally:
        builtins.__import__ = plain
        if not loaded and "torch" in sys.modules and not found:
            found.append("torch")
