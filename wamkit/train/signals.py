"""Ctrl-C and SIGTERM while a run goes: the update is finished and saved; a second one ends it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Signals:
    """The signals received."""

    names: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.names)


@contextmanager
def catch_signals() -> Iterator[Signals]:
    """Record Ctrl-C and SIGTERM within the block; a second one acts as usual.

    Only the main thread of a process can ask for that; in another nothing is caught.
    """
    came = Signals()
    before: dict[int, Any] = {}

    def catch(number: int, frame: Any) -> None:
        came.names.append("Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name)
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in map(int, (signal.SIGINT, signal.SIGTERM)):
        try:
            before[number] = signal.signal(number, catch)
        except ValueError:
            break
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
