"""In which line of a TOML text a key stands, which `tomllib` does not say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .documents import without_strings

_KEY = r"[\w-]+(?:[ \t]*\.[ \t]*[\w-]+)*"
_HEADER = re.compile(rf"[ \t]*\[\[?[ \t]*({_KEY})?.*\][ \t]*")
_PAIR = re.compile(rf"[ \t]*({_KEY})[ \t]*=(.*)")


def key_lines(text: str) -> dict[str, int]:
    """Dotted path of each table and key -> the line it stands in, counted from 1.

    Keys in quotes and what stands within a list or an inline table have none: whoever looks for one
    takes the line of what it stands in.
    """
    return dict(_lines(without_strings(text)))


def _lines(bare: str) -> Iterator[tuple[str, int]]:
    table: str | None = ""
    depth = 0
    for number, line in enumerate(bare.split("\n"), 1):
        if not depth and (header := _HEADER.fullmatch(line)):
            table = _strip_parts(header[1]) if header[1] and '"' not in line else None
            if table is not None:
                yield table, number
            continue
        if not depth and table is not None and (pair := _PAIR.fullmatch(line)):
            yield _strip_parts(f"{table}.{pair[1]}" if table else pair[1]), number
        depth += sum(line.count(c) for c in "[{") - sum(line.count(c) for c in "]}")


def _strip_parts(key: str) -> str:
    return ".".join(part.strip() for part in key.split("."))
