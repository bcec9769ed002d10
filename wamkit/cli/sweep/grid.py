"""What varies in a sweep: axes as they are typed, and every combination of their values."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from ...errors import WamkitError, shortened

MOST = 1000
"""Cells of one sweep."""
TRAINING = "train."
"""How the keys of training settings begin, which are no keys of a spec."""
LONGEST = 80  # characters of a cell's folder
_EXAMPLE = "for example --vary schedules.action.steps=1,2,5,10"


@dataclass(frozen=True)
class Axis:
    """A key and the values it takes, as `--set` writes them."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One combination: a value for each axis, its label in tables, and the name of its folder."""

    settings: tuple[tuple[str, str], ...]
    label: str
    folder: str

    @property
    def overrides(self) -> list[str]:
        """What changes the spec, as for `--set`."""
        changes = [(k, v) for k, v in self.settings if not k.startswith(TRAINING)]
        return [f"{key}={value}" for key, value in changes]

    @property
    def training(self) -> list[str]:
        """What changes the training settings, as for `wamkit train --train`."""
        found = [(k.removeprefix(TRAINING), v) for k, v in self.settings if k.startswith(TRAINING)]
        return [f"{key}={value}" for key, value in found]


def axes_of(texts: Sequence[str]) -> list[Axis]:
    """The axes in `KEY=VALUE,VALUE,...` texts. Raises WamkitError if one is none of these."""
    found: list[Axis] = []
    for text in texts:
        key, equals, listed = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise WamkitError(
                f"--vary {shortened(text)!r} is not of the form KEY=VALUE,VALUE,...", _EXAMPLE
            )
        values = split_values(listed)
        if not all(values):
            raise WamkitError(f"--vary {key} has an empty value", _EXAMPLE)
        if len(set(values)) < len(values):
            again = next(value for value in values if values.count(value) > 1)
            raise WamkitError(f"--vary {key} has the value {again} twice", "write it once")
        if any(axis.key == key for axis in found):
            raise WamkitError(
                f"--vary {key} is given twice", "write all its values in one: --vary KEY=A,B,C"
            )
        found.append(Axis(key, values))
    if not found:
        raise WamkitError("nothing varies", _EXAMPLE)
    return found


def split_values(text: str) -> tuple[str, ...]:
    """The values between commas; those within brackets, braces and quotes are no separators."""
    values, depth, quote, start = [], 0, "", 0
    for index, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[index - 1] != "\\" else quote
        elif letter in "\"'":
            quote = letter
        elif letter in "[{":
            depth += 1
        elif letter in "]}":
            depth -= 1
        elif letter == "," and depth == 0:
            values.append(text[start:index].strip())
            start = index + 1
    return (*values, text[start:].strip())


def points_of(axes: Sequence[Axis], *, zipped: bool) -> list[Point]:
    """Every combination of the axes' values, the last axis fastest; side by side if `zipped`.

    Raises WamkitError for zipped axes of different lengths, and for more than `MOST` combinations.
    """
    lengths = [len(axis.values) for axis in axes]
    if zipped and len(set(lengths)) > 1:
        listed = ", ".join(f"{axis.key} has {len(axis.values)}" for axis in axes)
        raise WamkitError(
            f"--zip takes axes of equally many values: {listed}",
            "leave --zip out for all pairs",
        )
    count = lengths[0] if zipped else math.prod(lengths)
    if count > MOST:
        raise WamkitError(f"{count:,} cells, at most {MOST:,} are run", "vary less at once")
    chosen = zip(*(axis.values for axis in axes), strict=True) if zipped else None
    combined = chosen or product(*(axis.values for axis in axes))
    short = short_names([axis.key for axis in axes])
    points: list[Point] = []
    for values in combined:
        settings = tuple((axis.key, value) for axis, value in zip(axes, values, strict=True))
        label = ", ".join(f"{short[key]}={value}" for key, value in settings)
        points.append(Point(settings, label, _folder(settings, label)))
    return points


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """For each key as much of its end as tells it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        ends = (".".join(parts[-n:]) for n in range(1, len(parts) + 1))
        found[key] = next(
            (end for end in ends if not any(f".{o}".endswith(f".{end}") for o in keys if o != key)),
            key,
        )
    return found


def _folder(settings: tuple[tuple[str, str], ...], label: str) -> str:
    """A name of plain characters, the same for the same settings whatever else is in the sweep."""
    name = label.replace(", ", "_")
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "-", name).strip(".-")[:LONGEST]
    if plain == name:
        return plain
    exact = "\n".join(f"{key}={value}" for key, value in settings)
    return f"{plain}-{hashlib.sha256(exact.encode()).hexdigest()[:8]}"
