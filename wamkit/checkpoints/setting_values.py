"""What the settings next to a checkpoint say: whole numbers, and values that are known alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import WamkitError


def whole_number(value: Any, name: str, where: str, least: int = 1) -> int:
    """The value of a setting that counts something.

    Raises WamkitError if it is no whole number, or below `least`. `name` is that of the setting,
    `where` that of its file.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise WamkitError(
            f"{where}: {name} = {value!r}, expected a whole number from {least} on",
            "copy the file again",
        )
    return value


def number(value: Any, name: str, where: str) -> float:
    """The value of a setting that is a number, such as 5.0 or "1e-4", which YAML reads as text.

    Raises WamkitError if it is none.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        return float(value)
    except (TypeError, ValueError):
        raise WamkitError(
            f"{where}: {name} = {value!r}, expected a number", "copy the file again"
        ) from None


def unknown_values(
    get: Callable[[str, Any], Any], known: Mapping[str, tuple[Any, ...]]
) -> Iterator[str]:
    """A phrase for every setting whose value is none of those that are known here.

    Args:
        get: The value of a setting by its name; its second argument for one that is not stated.
        known: Name of a setting -> its values; the first one holds where none is stated.
    """
    for name, values in known.items():
        found = get(name, values[0])
        if not any(_same(found, value) for value in values):
            expected = " or ".join(repr(value) for value in values)
            yield f"{name} = {found!r}, expected {expected}"


def _same(found: Any, known: Any) -> bool:
    if isinstance(known, float) and isinstance(found, str):  # "1e-6" is text in YAML
        try:
            return float(found) == known
        except ValueError:
            return False
    return bool(found == known) and isinstance(found, bool) == isinstance(known, bool)
