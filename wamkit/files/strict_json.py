"""JSON as the standard has it, within bounds: no NaN, no key twice, no endless nesting."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from ..errors import WamkitError

DEPTH = 100
"""How deep tables and lists may be nested; deeper ones exhaust the stack."""
BYTES = 256 * 2**20
"""The largest JSON file that is read; the largest published tokenizer has 33 MB."""


def dumps(data: Any, **options: Any) -> str:
    """`data` as JSON. Raises WamkitError with the path of a value that JSON cannot express."""
    try:
        return json.dumps(data, allow_nan=False, **options)
    except ValueError:
        bad = next(_not_finite(data, ""), None)
        if bad is None:
            raise
    raise WamkitError(
        f"{bad[0] or 'the number'} is {bad[1]}, and JSON has no such number",
        "check the weights, statistics, data and settings it was computed from",
    )


def loads(text: str | bytes) -> Any:
    """Parse `text`, which is not trusted.

    Raises ValueError, with line and column where there is one, if `text` is no JSON, or if it holds
    NaN, Infinity, a number that overflows, a key twice in one object, or more than `DEPTH` levels.
    """
    if isinstance(text, bytes):
        text = text.decode()
    text = text.removeprefix("\ufeff")
    try:
        found = json.loads(
            text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_unique
        )
    except _DuplicateKeyError as error:
        raise ValueError(f"{_place_of(error.key, text)}{error}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        if "digits" in str(error):
            raise ValueError("it holds a number of more than 4,300 digits") from None
        raise
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None
    expect_shallow(found)
    return found


def read(file: Path, hint: str, *, most: int = BYTES) -> Any:
    """The data in a JSON file of at most `most` bytes, which is not trusted.

    Raises WamkitError with `hint` as its hint if the file cannot be read, or is no such JSON.
    """
    try:
        size = file.stat().st_size
        if size > most:
            raise WamkitError(f"{file} has {size:,} bytes, at most {most:,} are read", hint)
        return loads(file.read_bytes())
    except WamkitError:
        raise
    except UnicodeDecodeError as error:
        raise WamkitError(f"{file} is no text in UTF-8: {error.reason}", hint) from None
    except ValueError as error:
        raise WamkitError(f"{file} is no valid JSON: {error}", hint) from None
    except OSError as error:
        raise WamkitError(f"{file} cannot be read: {error.strerror}", hint) from None


def expect_shallow(data: Any, depth: int = DEPTH) -> None:
    """Raise ValueError if tables and lists in `data` are nested deeper than `depth` levels."""
    level = [data]
    for _ in range(depth + 1):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, Mapping):
                inner += [v for v in value.values() if isinstance(v, dict | list)]
            elif isinstance(value, list | tuple):
                inner += [v for v in value if isinstance(v, dict | list)]
        if not inner:
            return
        level = inner
    raise ValueError(f"it is nested deeper than {depth} levels")


class _DuplicateKeyError(ValueError):
    """A key that stands twice in one object."""

    def __init__(self, key: str) -> None:
        super().__init__(f"the key {key!r} stands twice in one table")
        self.key = key


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names: set[str] = set()
        for key, _ in pairs:
            if key in names:
                raise _DuplicateKeyError(key)
            names.add(key)
    return found


def _place_of(key: str, text: str) -> str:
    """Line and column of a duplicate key, if it is unambiguous."""
    places = [m.start() for m in re.finditer(re.escape(json.dumps(key)) + r"\s*:", text)]
    if len(places) != 2:
        return ""
    line = text.count("\n", 0, places[1]) + 1
    return f"line {line}, column {places[1] - text.rfind(chr(10), 0, places[1])}: "


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"it holds {word}, which is no number in JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"it holds {text[:40]}, which is beyond the largest number there is")
    return value


def _not_finite(data: Any, path: str) -> Iterator[tuple[str, float]]:
    """Path and value of each value that is not finite."""
    if isinstance(data, float) and not math.isfinite(data):
        yield path, data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from _not_finite(value, f"{path}.{key}" if path else str(key))
    elif isinstance(data, list | tuple):
        for place, value in enumerate(data):
            yield from _not_finite(value, f"{path}[{place}]")
