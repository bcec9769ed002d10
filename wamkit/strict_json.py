"""JSON as the standard has it: without NaN and Infinity, which Python writes and reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

from .errors import WamkitError


def dumps(data: Any, **options: Any) -> str:
    """`data` as JSON. Raises WamkitError with the place of a number that JSON has no word for."""
    try:
        return json.dumps(data, allow_nan=False, **options)
    except ValueError:
        bad = next(_bad(data, ""), None)
        if bad is None:
            raise
    raise WamkitError(
        f"{bad[0] or 'the number'} is {bad[1]}, and JSON has no such number",
        "look at what it was computed from: weights, statistics, data and settings",
    )


def loads(text: str | bytes) -> Any:
    """The data in `text`. Raises ValueError if it is no JSON, or holds NaN or Infinity."""
    return json.loads(text, parse_constant=_refuse)


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no number in JSON")


def _bad(data: Any, path: str) -> Iterator[tuple[str, float]]:
    """Path and value of each number that is not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _bad(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list | tuple):
        for place, value in enumerate(data):
            yield from _bad(value, f"{path}[{place}]")
