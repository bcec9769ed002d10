"""The part `autoregressive`, not written yet."""

from __future__ import annotations

from collections.abc import Callable

from wamkit.hooks import hookimpl
from wamkit.parts import Part


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    pass
