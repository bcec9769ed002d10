"""A spec that is being composed: its tables so far, who decided what, and why."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import WamkitError
from ..check import check
from ..hint_changes import Way, effective_ways, fixes_of, is_mistyped
from ..parts import KINDS, Conflict, Part
from ..spec import parse_part

LEARNED = "adapter"
"""A key that is never set unasked: a learned projection gives up what the weights know."""
ROUNDS = 12
"""Hints that are followed one after the other before a composition is given up."""


@dataclass(frozen=True)
class Choice:
    """A value that nobody asked for, and the reason for it."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Dropped:
    """A value of the spec that was begun from which does not hold any more."""

    key: str
    value: Any
    reason: str


@dataclass
class Draft:
    """Tables of a spec, of which some may be missing, and a record of every choice."""

    raw: dict[str, Any]
    typed: set[str] = field(default_factory=set)
    """Paths that the user decided; with one, all below it."""
    choices: list[Choice] = field(default_factory=list)
    dropped: list[Dropped] = field(default_factory=list)
    carried: set[str] = field(default_factory=set)
    """Paths of settings that were another part's; one that conflicts is left out."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """kind -> settings of a part that is still to be chosen."""
    images: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """view -> height and width of its images, where that is known."""

    def copy(self) -> Draft:
        """An independent draft with the same content."""
        raw = copy.deepcopy(self.raw)
        lists = list(self.choices), list(self.dropped), set(self.carried)
        return Draft(raw, set(self.typed), *lists, self.settings, self.images)

    def is_open(self, path: str) -> bool:
        """Whether the user decided neither `path` nor anything below or above it."""
        return not any(
            f"{path}.".startswith(f"{one}.") or f"{one}.".startswith(f"{path}.")
            for one in self.typed
        )

    def part(self, kind: str) -> Part | None:
        """The part of a kind; None if there is none so far, or its table is wrong."""
        try:
            return parse_part(kind, self.raw[kind]) if kind in self.raw else None
        except WamkitError:
            return None

    def choose(self, path: str, value: Any, reason: str) -> None:
        """Set a value that nobody asked for."""
        *parents, last = path.split(".")
        table = self.raw
        for key in parents:
            table = table.setdefault(key, {})
        table[last] = value
        self.note(path, value, reason)

    def note(self, path: str, value: Any, reason: str) -> None:
        """Record a choice; it replaces an earlier one of the same key."""
        self.choices = [c for c in self.choices if c.key != path]
        self.choices.append(Choice(path, value, reason))

    def conflicts(self) -> list[Conflict]:
        """What does not fit among what is there; nothing about what is not there yet."""
        return [c for c in check(self.raw) if not c.missing and not self._is_absent(c)]

    def _is_absent(self, conflict: Conflict) -> bool:
        return len(conflict.between) == 1 and (
            conflict.between[0] in (*KINDS, "actions", "cameras")
            and conflict.between[0] not in self.raw
        )

    def mend(self) -> list[Conflict]:
        """Follow hints that concern what the user left open; returns the conflicts that stay."""
        found = self.conflicts()
        for _ in range(ROUNDS):
            step = next(self._steps(found), None)
            if step is None:
                break
            found = step
        return found

    def _steps(self, found: list[Conflict]) -> Iterator[list[Conflict]]:
        """Make the first change that fixes one of the conflicts; yields those that stay."""
        for conflict in found:
            for path in sorted(self.carried):
                kind, _, key = path.partition(".")
                rest = {k: v for k, v in self.raw.get(kind, {}).items() if k != key}
                left = Draft({**self.raw, kind: rest}, self.typed).conflicts()
                if conflict not in left and len(left) < len(found):
                    self.dropped.append(Dropped(path, self.raw[kind][key], conflict.why))
                    self.raw[kind] = rest
                    self.carried.discard(path)
                    yield left
                    return
            if is_mistyped(conflict):
                continue  # which value is meant, only the user knows
            ways = [way for way in fixes_of(conflict) if self._may_follow(way)]
            for way, changed in effective_ways(self.raw, ways):
                trial = Draft(changed, self.typed)
                left = trial.conflicts()
                if conflict in left or len(left) > len(found):
                    continue
                self.raw = changed
                for path, value in way:
                    self.note(path, value, conflict.why)
                yield left
                return

    def _may_follow(self, way: Way) -> bool:
        return all(
            self.is_open(path) and path.rpartition(".")[2] != LEARNED and not self._renames(path)
            for path, _ in way
        )

    def _renames(self, path: str) -> bool:
        """Whether a change exchanges a part: that is no detail, and decided elsewhere."""
        return path in KINDS or (path.endswith(".name") and path.count(".") == 1)
