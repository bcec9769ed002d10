"""What the settings next to a checkpoint say: checked values, and values that are known alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

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


class Settings:
    """A table of a file of settings, whose values are checked where they are read.

    Methods that take the name of a setting raise WamkitError with the file and that name if it is
    not stated, or of another kind.

    Args:
        table: What the file holds.
        where: Name of the file.
        name: Name of the table in it; "" for the whole file.
    """

    def __init__(self, table: Mapping[str, Any], where: str, name: str = "") -> None:
        self.values, self.where, self._name = table, where, name

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def get(self, name: str, default: Any = None) -> Any:
        """The value as it stands there; `default` if there is none."""
        return self.values.get(name, default)

    def full_name(self, name: str) -> str:
        """The name of a setting with that of its table."""
        return f"{self._name}.{name}" if self._name else name

    def value(self, name: str) -> Any:
        """The value as it stands there."""
        if name not in self.values:
            raise WamkitError(
                f"{self.where} does not state {self.full_name(name)}", "copy the file again"
            )
        return self.values[name]

    def whole_number(self, name: str, least: int = 1) -> int:
        """A whole number from `least` on."""
        return whole_number(self.value(name), self.full_name(name), self.where, least)

    def number(self, name: str) -> float:
        """A number."""
        return number(self.value(name), self.full_name(name), self.where)

    def text(self, name: str) -> str:
        """A text."""
        found = self.value(name)
        return found if isinstance(found, str) else self._refuse(name, "a text")

    def whole_numbers(self, name: str, count: int | None = None, least: int = 1) -> list[int]:
        """A list of whole numbers from `least` on; of `count` of them, if that is given."""
        found = self.value(name)
        if not isinstance(found, list) or (count is not None and len(found) != count):
            self._refuse(name, "a list" if count is None else f"a list of {count}")
        return [whole_number(own, self.full_name(name), self.where, least) for own in found]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        found = self.value(name)
        if not isinstance(found, list) or not all(isinstance(own, str) for own in found):
            self._refuse(name, "a list of texts")
        return list(found)

    def table(self, name: str) -> Settings:
        """A table."""
        found = self.value(name)
        if not isinstance(found, Mapping):
            self._refuse(name, "a table")
        return Settings(found, self.where, self.full_name(name))

    def _refuse(self, name: str, expected: str) -> NoReturn:
        raise WamkitError(
            f"{self.where}: {self.full_name(name)} = {str(self.values[name])[:80]!r}, expected "
            f"{expected}",
            "copy the file again",
        )


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
