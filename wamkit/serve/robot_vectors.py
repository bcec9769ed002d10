"""State and actions of a robot as the values of its keys, and as the one vector of a policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import pi
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..config.values import Table
from ..errors import WamkitError
from .quoting import quote

UNITS = {
    "rad": ("angle", 1.0),
    "deg": ("angle", pi / 180),
    "m": ("length", 1.0),
    "cm": ("length", 0.01),
    "mm": ("length", 0.001),
}
"""Unit -> what it measures, and how many radians or meters it is."""

Floats = NDArray[np.float64]


class ValueMap(Table):
    """Values of one key of a robot, and where they stand in the state or action of a policy."""

    key: str
    """Key of the request or reply, parts of nested maps joined by `/`."""
    slice: tuple[int, int]
    """Columns of the policy's vector, the end not included."""
    columns: tuple[int, int] | None = None
    """Columns of the key's vector; all of it if left out."""
    unit: str = ""
    """Unit of the robot's values."""
    policy_unit: str = ""
    """Unit of the policy's values; that of the robot if left out."""
    sign: Literal[1, -1] = 1
    """-1 where the policy's axis points the other way."""
    range: tuple[float, float] | None = None
    """Values of the robot at both ends, such as a gripper closed and open; it cuts actions."""
    policy_range: tuple[float, float] | None = None
    """Values of the policy at the same ends."""

    def scale_offset(self) -> tuple[float, float]:
        """Factor and summand that make the policy's value of the robot's. Raises WamkitError."""
        if self.policy_range is not None:
            if self.range is None or self.sign != 1 or self.policy_unit not in ("", self.unit):
                raise WamkitError(
                    f"{self.key!r} has policy_range with sign or policy_unit, or without range",
                    "the two ranges alone say how values are converted: leave out the others",
                )
            (low, high), (first, last) = self.range, self.policy_range
            if low == high or first == last:
                raise WamkitError(f"a range of {self.key!r} is empty", "write two different ends")
            scale = (last - first) / (high - low)
            return scale, first - low * scale
        return self.sign * self._factor(), 0.0

    def _factor(self) -> float:
        wanted = self.policy_unit or self.unit
        if wanted == self.unit:
            return 1.0
        (mine, factor), (other, divisor) = (UNITS.get(u, ("", 1.0)) for u in (self.unit, wanted))
        if not mine or mine != other:
            raise WamkitError(
                f"{self.key!r} cannot be converted from {self.unit!r} to {wanted!r}",
                f"units that are converted are {', '.join(UNITS)}; write range and policy_range",
            )
        return factor / divisor


class VectorMap:
    """Converts between a policy's vector [..., P] and that of a robot [..., R], key after key.

    `what` is "state" or "action", for errors; `size` is P. Raises WamkitError unless every column
    of the policy belongs to one column of one key.
    """

    def __init__(self, fields: Sequence[ValueMap], size: int, what: str) -> None:
        self.what, self.size = what, size
        self.keys: dict[str, slice] = {}
        """Key -> its columns in the robot's vector, in the order of the fields."""
        self._index: list[int] = []
        rows: list[tuple[float, float, float, float]] = []
        for key in dict.fromkeys(field.key for field in fields):
            mine = [field for field in fields if field.key == key]
            columns: dict[int, tuple[int, ValueMap]] = {}
            for field in mine:
                start, stop = field.slice
                first, last = field.columns or (0, stop - start)
                right = 0 <= start < stop <= size and first >= 0
                if not right or last - first != stop - start:
                    raise WamkitError(
                        f"{what} {key!r} has slice {list(field.slice)} of the policy's {size} "
                        f"values, and columns {[first, last]}",
                        "write [begin, end] of equal lengths, the end not included",
                    )
                for shift in range(stop - start):
                    if first + shift in columns:
                        raise WamkitError(
                            f"{what} {key!r} has column {first + shift} twice",
                            "give each entry of the key its own columns = [begin, end]",
                        )
                    columns[first + shift] = start + shift, field
            if sorted(columns) != list(range(len(columns))):
                raise WamkitError(
                    f"{what} {key!r} leaves out columns before {max(columns)}",
                    "map every column of the key",
                )
            self.keys[key] = slice(len(self._index), len(self._index) + len(columns))
            for column in range(len(columns)):
                place, field = columns[column]
                self._index.append(place)
                ends = field.range if field.range is not None else (-np.inf, np.inf)
                rows.append((*field.scale_offset(), min(ends), max(ends)))
        if sorted(self._index) != list(range(size)):
            raise WamkitError(
                f"{what} of the robot file has columns {_ranges(self._index)} of the policy's "
                f"{size} values",
                f"map each of 0 to {size - 1} once" if size else f"the policy has no {what}",
            )
        table = np.array(rows, np.float64).reshape(-1, 4)
        self._scale, self._offset, self._low, self._high = table.T

    def to_policy(self, values: Floats) -> Floats:
        """[..., R] in the robot's units as [..., P] in those of the policy."""
        found = np.empty((*values.shape[:-1], self.size))
        found[..., self._index] = values * self._scale + self._offset
        return found

    def to_robot(self, values: Floats) -> Floats:
        """[..., P] in the policy's units as [..., R] in those of the robot, cut to its ranges."""
        found = (values[..., self._index] - self._offset) / self._scale
        return np.clip(found, self._low, self._high)

    def places(self, columns: Sequence[int]) -> list[int]:
        """Columns of the policy's vector as columns of the robot's."""
        return [place for place, column in enumerate(self._index) if column in columns]

    def split(self, values: Any) -> dict[str, Any]:
        """[..., R] as the values of each key."""
        return {key: values[..., columns] for key, columns in self.keys.items()}

    def join(self, request: Mapping[str, Any]) -> Floats:
        """The values of all keys of a request as one vector [R]. Raises WamkitError."""
        found = np.empty(len(self._index))
        for key, columns in self.keys.items():
            count = columns.stop - columns.start
            try:
                value = np.asarray(request[key])
                fits = value.dtype.kind in "iufb" and value.size == count and value.ndim < 2
            except (TypeError, ValueError):
                fits = False
            if not fits:
                raise WamkitError(
                    f"{key!r} is {quote(request[key])}; expected {count} numbers",
                    f"send a vector of {count} values, or correct the robot file",
                )
            found[columns] = value
        return found


def _ranges(index: Sequence[int]) -> str:
    """Columns for a message."""
    return ", ".join(map(str, sorted(index)[:40])) or "none"
