"""Systematic mutations of a valid document, and of bytes."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Path = tuple[str | int, ...]

RAW = "@raw:"
"""Begins a text that stands in JSON for what `json.dumps` does not write."""
DEEP = 100_000
ODD: Mapping[str, Any] = {
    "null": None,
    "text": "abc",
    "empty text": "",
    "list": [],
    "table": {},
    "list of lists": [[[1]]],
    "true": True,
    "zero": 0,
    "negative": -1,
    "fraction": 0.5,
    "huge": 10**12,
    "digits": f"{RAW}1{'0' * 400}",
    "nan": f"{RAW}NaN",
    "inf": f"{RAW}-Infinity",
    "overflow": f"{RAW}1e999",
    "deep": f"{RAW}{'[' * DEEP}{']' * DEEP}",
    "escape": "\x1b[31mred\x1b]0;title\x07",
    "surrogate": f'{RAW}"\\ud800"',
    "NUL": "a\x00b",
    "outside": "../../outside/file",
    "absolute": "/etc/passwd",
    "format": "{0.__class__}{x!r:>99999999}",
}


def paths(document: Any, prefix: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every place in a document but its root, with what is there."""
    pairs = document.items() if isinstance(document, Mapping) else enumerate(document)
    for key, value in pairs:
        yield (*prefix, key), value
        if isinstance(value, Mapping | list):
            yield from paths(value, (*prefix, key))


def named(path: Path) -> str:
    """A path as it is written in overrides."""
    return ".".join(map(str, path))


def get(document: Any, path: Path) -> Any:
    """What is at a place."""
    for key in path:
        document = document[key]
    return document


def changed(document: Any, path: Path, value: Any) -> Any:
    """A copy with another value at a place."""
    result = copy.deepcopy(document)
    *parents, last = path
    get(result, tuple(parents))[last] = value
    return result


def deleted(document: Any, path: Path) -> Any:
    """A copy without a place."""
    result = copy.deepcopy(document)
    *parents, last = path
    del get(result, tuple(parents))[last]
    return result


def text(document: Any) -> str:
    """A document as JSON, with what is marked RAW as it is."""
    found = json.dumps(document)
    while (place := found.find(f'"{RAW}')) >= 0:
        value, end = json.JSONDecoder().raw_decode(found, place)
        found = found[:place] + value.removeprefix(RAW) + found[end:]
    return found


def doubled(document: Any, path: Path) -> str:
    """JSON in which the key at a place is there twice, with two values."""
    mark = "@again@"
    *parents, last = path
    table = dict(get(document, tuple(parents)))
    table[mark] = "another"
    twice = changed(document, tuple(parents), table) if parents else table
    return text(twice).replace(f'"{mark}"', json.dumps(last))


def documents(
    document: Any, kinds: Sequence[str] = (), every: Sequence[Path] | None = None
) -> Iterator[tuple[str, Path, str, str]]:
    """Name, place, kind and JSON text of every mutation of a document.

    The kinds are those of ODD, "without" and "twice"; a value is never replaced by an equal one.
    """
    for path, value in paths(document):
        if every is not None and path not in every:
            continue
        for kind in kinds or (*ODD, "without", "twice"):
            if kind == "without":
                made = text(deleted(document, path))
            elif kind == "twice":
                if isinstance(path[-1], int):
                    continue
                made = doubled(document, path)
            else:
                if ODD[kind] == value and type(ODD[kind]) is type(value):
                    continue
                made = text(changed(document, path, ODD[kind]))
            yield f"{named(path)} {kind}", path, kind, made


def cut(data: bytes, parts: int = 8) -> Iterator[tuple[str, bytes]]:
    """The beginnings of some bytes, of so many lengths, the empty one too."""
    for part in range(parts):
        yield f"first {part} of {parts}", data[: len(data) * part // parts]


def flipped(data: bytes, places: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """The bytes with one bit turned at each of some places."""
    for place in places:
        made = bytearray(data)
        made[place] ^= 1 << (place % 8)
        yield f"bit at {place}", bytes(made)


def safetensors(header: Any, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, a document or its text; `length` is what it claims."""
    written = (header if isinstance(header, str) else text(header)).encode()
    return struct.pack("<Q", len(written) if length is None else length) + written + body
