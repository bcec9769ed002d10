"""Values set from outside a file: `path.to.key=value`, and parts that are exchanged by name."""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import Note, WamkitError, shortened
from ..files.documents import DEPTH, expect_plain, parse_toml
from ..files.paths import expect_text
from .part_rules import BASES
from .parts import KINDS

OWN = ("weights", "derived_from", "lora", "lora_scale", "embeddings_file")
"""Of what all parts of a kind know, what belongs to one part alone: its files."""


def override(raw: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `raw` with each `path.to.key=value` set; values are written as in TOML.

    A part that gets another name, by `backbone.name=toy` or `backbone=toy`, loses the settings of
    the former one; a `Note` says which. What other overrides set for it stays. Raises WamkitError
    if an override has no `=` or its path runs through a value.
    """
    result = json.loads(json.dumps(dict(raw), default=str))
    typed: set[str] = set()
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not path:
            raise WamkitError(
                f"the override {shortened(text)!r} is not of the form path.to.key=value",
                "for example --set schedules.action.steps=5",
            )
        expect_text(text, f"override {path}")
        if path.count(".") >= DEPTH:
            raise WamkitError(
                f"the override {path[:40]!r}... has {path.count('.') + 1:,} parts, at most {DEPTH}",
                "for example --set schedules.action.steps=5",
            )
        if not _switch_part(result, path, value_of(value), typed):
            _set(result, path, value_of(value))
        typed.add(path)
    return result


def _set(result: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    table: Any = result
    for key in parents:
        table = _step(table, key, path, create=True)
    if isinstance(table, list):
        _step(table, last, path, create=False)
        table[int(last)] = value
    else:
        table[last] = value


def _switch_part(result: dict[str, Any], path: str, name: Any, typed: Collection[str]) -> bool:
    """Whether `path` is a part's, which gets the new `name` here; its old settings are dropped."""
    place = path.removesuffix(".name")
    *parents, last = place.split(".")
    kind = place.partition(".")[0]  # of a nested table too, such as `paradigm.inner`
    table: Any = result
    for key in parents:
        table = table.get(key) if isinstance(table, Mapping) else None
    old = table.get(last) if isinstance(table, Mapping) else None
    if isinstance(old, str) and place in KINDS:
        old = {"name": old}
    if kind not in KINDS or not isinstance(name, str) or not isinstance(old, Mapping):
        return False
    if old.get("name") == name:
        return True  # nothing is exchanged, and no setting is lost
    if old.get("name") is None:
        return False
    shared = BASES[kind].model_fields
    kept, dropped = {"name": name}, []
    for key, value in old.items():
        if f"{place}.{key}" in typed or (key in shared and key not in OWN):
            kept.setdefault(key, value)
        elif key != "name":
            dropped.append(key)
    table[last] = kept
    if dropped:
        message = f"{place} is now {name!r}: left out {', '.join(dropped)}, which were settings of "
        message += f"{old['name']!r}" + (f"; kept {', '.join(list(kept)[1:])}" * (len(kept) > 1))
        warnings.warn(message, Note, stacklevel=3)
    return True


def _step(table: Any, key: str, path: str, *, create: bool) -> Any:
    if isinstance(table, list):
        if not (key.isascii() and key.isdigit()) or len(key) > 9 or int(key) >= len(table):
            raise WamkitError(
                f"{shortened(path)}: {shortened(key)!r} is no place in a list of {len(table)}",
                "count from 0",
            )
        return table[int(key)]
    below = table.setdefault(key, {}) if create else table.get(key)
    if not isinstance(below, dict | list):
        raise WamkitError(
            f"{shortened(path)}: {key} is the value {shortened(repr(below))}, not a table",
            f"set {key} itself: --set {key}=...",
        )
    return below


def value_of(text: str) -> Any:
    """The value that is written as in TOML; what is none there is text.

    Raises WamkitError if it is nested too deep, or if more than one value is written.
    """
    try:
        found = parse_toml(f"v = {text}")
    except ValueError as error:
        if "nested" in str(error):
            raise WamkitError(
                f"the value {shortened(text)!r} cannot be read: {error}", "write a plain value"
            ) from None
        return text.strip()
    if len(found) > 1:
        raise WamkitError(
            f"the value {shortened(text)!r} goes on in another line: {', '.join(list(found)[1:4])}",
            "write a --set for each",
        )
    value = found["v"]
    try:
        expect_plain({"v": value}, "it")
    except WamkitError:  # a date, for example
        return text.strip()
    return value
