"""Tables as TOML for people to read and edit: comments next to keys, lists on short lines."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

from ..errors import WamkitError
from .documents import parse_toml

WIDTH = 100
"""Characters of a line, its comment included; a value may be longer, and is never cut."""
COLUMN = 30
"""Where comments begin, if the value before them is that short."""

Comment = Callable[[str], str]
"""From the path of a key to its comment; "" for nothing."""


def toml_text(
    raw: Mapping[str, Any], comment: Comment = lambda _: "", head: Sequence[str] = ()
) -> str:
    """`raw` as TOML, with `head` above it as comments.

    Raises WamkitError for a value that TOML cannot hold.
    """
    lines = [*(f"# {line}".rstrip() for line in head), *([""] if head else [])]
    lines += _table(raw, "", comment)
    text = "\n".join(lines).strip("\n") + "\n"
    try:
        same = parse_toml(text) == json.loads(json.dumps(raw))
    except ValueError:  # such as null, for which TOML has no word
        same = False
    if not same:
        raise WamkitError("the tables cannot be written as TOML", "write them as YAML")
    return text


def drop_none(value: Any) -> Any:
    """`value` without the keys of its tables that are None, for which TOML has no word."""
    if isinstance(value, Mapping):
        return {key: drop_none(inner) for key, inner in value.items() if inner is not None}
    return [drop_none(item) for item in value] if isinstance(value, list | tuple) else value


def _table(table: Mapping[str, Any], path: str, comment: Comment) -> Iterator[str]:
    """A table's own keys, then the tables in it."""
    inner = {key: value for key, value in table.items() if _is_section(value, path)}
    for key, value in table.items():
        if key not in inner:
            yield from _line(key, value, f"{path}.{key}".strip("."), comment)
    for key, value in inner.items():
        place = f"{path}.{key}".strip(".")
        if any(not _is_section(each, place) for each in value.values()) or not value:
            yield ""
            header = f"[{'.'.join(map(_key, place.split('.')))}]"
            yield from _with_comment(header, comment(place))
        yield from _table(value, place, comment)


def _is_section(value: Any, path: str) -> bool:
    """Whether a table stands under a header of its own: two levels do."""
    return isinstance(value, Mapping) and path.count(".") == 0


def _line(key: str, value: Any, path: str, comment: Comment) -> Iterator[str]:
    text = comment(path)
    if isinstance(value, list) and len(value) > 1 and all(isinstance(v, Mapping) for v in value):
        yield from _with_comment(f"{_key(key)} = [", text)
        yield from (f"    {inline(each)}," for each in value)
        yield "]"
    else:
        yield from _with_comment(f"{_key(key)} = {inline(value)}", text)


def _with_comment(line: str, text: str) -> Iterator[str]:
    """A line with its comment behind it, or above it where there is no room."""
    room = WIDTH - max(COLUMN, len(line) + 2) - 2
    if not text:
        yield line
    elif len(text) <= room:
        yield f"{line.ljust(COLUMN - 2)}  # {text}"
    else:
        yield from (f"# {part}" for part in wrap(text, WIDTH - 2))
        yield line


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _text(key)


def inline(value: Any) -> str:
    """One value in a line."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{_key(key)} = {inline(each)}" for key, each in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(inline, value))}]"
    return _text(value) if isinstance(value, str) else json.dumps(value)


def _text(text: str) -> str:
    """Text in quotes; what TOML does not allow there is escaped as JSON does."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
