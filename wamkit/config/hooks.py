"""The whole plugin surface: one hook, and the version of the contract behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from .parts import Part

API = 1  # raised when a plugin written for an older wamkit could no longer work

hookspec = pluggy.HookspecMarker("wamkit")
hookimpl = pluggy.HookimplMarker("wamkit")


class Hooks:
    """Hooks of a wamkit plugin."""

    @hookspec
    def register(self, add: Callable[[type[Part]], None]) -> None:
        """Offer parts: call `add(ConfigClass)` once for each. Import no torch here."""
