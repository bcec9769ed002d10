"""What differs between two specs, key by key; a part that was exchanged counts as one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One place in which two specs differ."""

    key: str
    """Dotted path, as for `--set`."""
    a: Any
    """Value in the first spec; of a block what differs in it; None if there is none."""
    b: Any
    """The same in the second."""
    block: bool = False
    """True for a table that only one of them has, and for one with another `name`: a part."""


def differences(a: Mapping[str, Any], b: Mapping[str, Any], place: str = "") -> list[Difference]:
    """Everything in which two trees of plain data differ, in the order of the first."""
    return list(_differences(a, b, place))


def _differences(a: Any, b: Any, place: str) -> Iterator[Difference]:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        if a.get("name") != b.get("name") and "name" in a and "name" in b and place:
            yield Difference(place, _beyond(a, b), _beyond(b, a), block=True)
            return
        for key in [*a, *(key for key in b if key not in a)]:
            yield from _differences(a.get(key), b.get(key), f"{place}.{key}" if place else key)
    elif _lists_of_tables(a, b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, f"{place}.{index}")
    elif type(a) is not type(b) or a != b:
        yield Difference(place, a, b, block=isinstance(a, Mapping) or isinstance(b, Mapping))


def _beyond(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """What of `a` is not the same in `b`."""
    return {
        key: value
        for key, value in a.items()
        if key not in b or next(_differences(value, b[key], key), None) is not None
    }


def _lists_of_tables(a: Any, b: Any) -> bool:
    """Whether both are lists of equally many tables under the same names."""
    if not isinstance(a, list) or not isinstance(b, list) or len(a) != len(b) or not a:
        return False
    return all(
        isinstance(one, Mapping) and isinstance(other, Mapping)
        and one.get("name") == other.get("name")
        for one, other in zip(a, b, strict=True)
    )  # fmt: skip
