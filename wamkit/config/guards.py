"""Keeps a plugin's code from what outlasts it: threads, exit handlers, the end of the process."""

from __future__ import annotations

import _thread
import atexit
import gc
import locale
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from operator import is_
from types import ModuleType
from typing import Any

Quietly = Callable[[Callable[[], Any]], None]


class RefusedError(RuntimeError):
    """A plugin's code did what no import may do; the message says what, and where it belongs."""


THREAD = "it starts a thread when it is imported; start it inside build()"
ENDS = "it ends the process when it is imported"
REFUSED: tuple[tuple[ModuleType, str, str], ...] = (
    (threading.Thread, "start", THREAD),  # type: ignore[arg-type]
    (_thread, "start_new_thread", THREAD),
    *((os, name, ENDS) for name in ("_exit", "abort", "execv", "execve") if hasattr(os, name)),
)


class _Handler:
    """An exit handler that says nothing; equal to its function, for `atexit.unregister`."""

    def __init__(self, function: Callable[[], Any], plain: Any, quietly: Quietly) -> None:
        self.function, self.plain, self.quietly = function, plain, quietly

    def __eq__(self, other: object) -> bool:
        return bool(self.plain == other)

    def __hash__(self) -> int:
        return hash(self.plain)

    def __call__(self) -> None:
        self.quietly(self.function)


@contextmanager
def guarded(quietly: Quietly) -> Iterator[None]:
    """Refuse what is `REFUSED` in this thread, and run exit handlers that are added `quietly`."""
    owner, active = (os.getpid(), threading.get_ident()), [True]

    def here() -> bool:
        return active[0] and owner == (os.getpid(), threading.get_ident())

    def refusing(plain: Any, why: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if here():
                raise RefusedError(why)
            return plain(*args, **kwargs)

        return call

    register = atexit.register

    def added(function: Any, *args: Any, **kwargs: Any) -> Any:
        if not here():
            return register(function, *args, **kwargs)
        register(_Handler(lambda: function(*args, **kwargs), function, quietly))
        return function

    with ExitStack() as stack:
        stack.callback(active.clear)
        for place, name, why in REFUSED:
            plain = getattr(place, name)
            stack.callback(setattr, place, name, plain)
            setattr(place, name, refusing(plain, why))
        stack.callback(setattr, atexit, "register", register)
        atexit.register = added  # type: ignore[assignment]
        yield
        active[0] = False


class Shared:
    """What every module of a process shares besides its streams: functions, locale, timers."""

    def __init__(self) -> None:
        roots = sys.stdlib_module_names | {"wamkit"}
        own = ("builtins", "sys", "__main__", "warnings")
        self.modules = {
            name: (module, dict(vars(module)))
            for name, module in list(sys.modules.items())
            if name.partition(".")[0] in roots and name not in own and type(module) is ModuleType
        }
        self.locale = locale.setlocale(locale.LC_ALL)
        self.tracing = (sys.gettrace(), sys.getprofile(), gc.isenabled(), sys.stdin)
        self.timer = signal.getitimer(signal.ITIMER_REAL)[0] if hasattr(signal, "setitimer") else 1

    def restore(self, notes: list[str]) -> None:
        """Put everything back, with a note for what was changed."""
        changed = [
            f"{name}.{key}"
            for name, (module, before) in self.modules.items()
            if not _same(vars(module), before)
            for key, value in before.items()
            if vars(module).get(key) is not value and callable(value)
        ]
        for label in changed:
            name, _, key = label.rpartition(".")
            module, before = self.modules[name]
            setattr(module, key, before[key])
        if changed:
            notes.append(f"replaced {', '.join(changed)}")
        if locale.setlocale(locale.LC_ALL) != self.locale:
            notes.append("changed the locale")
            with suppress(locale.Error):
                locale.setlocale(locale.LC_ALL, self.locale)
        trace, profile, collects, sys.stdin = self.tracing
        if (sys.gettrace(), sys.getprofile()) != (trace, profile):
            notes.append("set a trace or profile function")
            sys.settrace(trace)
            sys.setprofile(profile)
        if gc.isenabled() != collects:
            notes.append("switched garbage collection")
            (gc.enable if collects else gc.disable)()
        if not self.timer and signal.getitimer(signal.ITIMER_REAL)[0]:
            notes.append("set a timer")
            signal.setitimer(signal.ITIMER_REAL, 0)


def _same(now: dict[str, Any], before: dict[str, Any]) -> bool:
    """True if not even one value was added; it is asked of every module, so it has to be quick."""
    return len(now) == len(before) and all(map(is_, now.values(), before.values()))
