"""What SIGINT (Ctrl-C) and SIGTERM do to a server: the first ends it in order, the next at once."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import current_thread, main_thread
from time import monotonic
from types import FrameType
from typing import Any, Self

ENDING = (signal.SIGINT, signal.SIGTERM)
TWICE = 0.02
"""Seconds within which a signal counts as the one before: `timeout` and some shells send it to a
process and to its group."""


class Signals:
    """Within the block, SIGINT and SIGTERM end the process.

    At once, with status 128 + the signal's number, while no client is served, and from the second
    signal on: threads that compute are not waited for. With `end_with`, the first one calls a
    function instead. Outside the main thread, where Python handles no signals, nothing is done.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        """The signal that began the end."""
        self._since = 0.0
        self._end: Callable[[], Any] | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if current_thread() is main_thread():
            for number in ENDING:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def end_with(self, end: Callable[[], Any]) -> None:
        """From now on, the first signal calls `end` in the main thread."""
        self._end = end

    def finish(self) -> None:
        """End the process after an orderly end: with 130 after SIGINT, as shells count it, else 0.

        Python and torch take up to seconds to take themselves apart, in which nothing of use
        happens and a supervisor waits.
        """
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # its reader may have closed it
                stream.flush()
        os._exit(128 + signal.SIGINT if self.first == signal.SIGINT else 0)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._end is None:
            _leave(number)
        elif self.first is None:
            self.first, self._since = number, monotonic()
            self._end()
        elif monotonic() - self._since > TWICE:
            _leave(number)


def _leave(number: int) -> None:
    """End the process now."""
    if sys.stderr.isatty():
        os.write(sys.stderr.fileno(), b"\x1b[?25h\n")  # a progress bar may have hidden the cursor
    os._exit(128 + number)
