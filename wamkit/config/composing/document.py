"""A composed spec as a file: TOML, with the meaning of each key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...errors import WamkitError
from ...files.toml_text import toml_text
from ..describe import meanings, models_in
from ..parts import KINDS
from ..registry import registry
from ..spec import SECTIONS, PolicySpec


def spec_text(raw: Mapping[str, Any], head: tuple[str, ...] = ()) -> str:
    """The spec as TOML with comments; `head` stands above it."""

    def comment(path: str) -> str:
        return _of_value(_meaning(raw, path), _value(raw, path))

    return toml_text(raw, comment, head)


def _meaning(raw: Mapping[str, Any], path: str) -> str:
    top, *keys = path.split(".")
    if not keys:
        section = SECTIONS.get(top)
        return (section.__doc__ or "") if section else meanings(PolicySpec).get(top, "")
    if top in KINDS:
        try:
            cls: Any = registry().get(top, str(raw[top]["name"]))
        except WamkitError:
            return ""
        if path == f"{top}.name":
            return cls.__doc__ or ""
    else:
        cls = SECTIONS.get(top)
    for key in keys[:-1]:
        cls = _inner(cls, key)
    if cls is None:
        return ""
    inner = _inner(cls, keys[-1])
    return meanings(cls).get(keys[-1], "") or (inner.__doc__ or "" if inner else "")


def _inner(cls: Any, key: str) -> Any:
    """The form of the tables at a key; None if there are none."""
    field = cls.model_fields.get(key) if cls is not None else None
    return next(iter(models_in(field.annotation)), None) if field is not None else None


def _value(raw: Mapping[str, Any], path: str) -> Any:
    found: Any = raw
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _of_value(text: str, value: Any) -> str:
    """What a meaning says first; of words that are explained one by one, what it says of `value`.

    Empty if it explains other words alone.
    """
    statements = list(_statements(" ".join(text.split())))
    if not statements or not isinstance(value, str):
        return _plain(statements[0]) if statements else ""
    own = [s for s in statements if re.match(rf"`{re.escape(value)}`", s)]
    if own:
        return _plain(re.sub(rf"^`{re.escape(value)}`:\s*", "", own[0]))
    return "" if re.match(r"`[^`]+`", statements[0]) else _plain(statements[0])


def _plain(statement: str) -> str:
    return statement.replace("`", "").rstrip(".;:")


def _statements(text: str) -> Iterator[str]:
    """Sentences, cut at a period or semicolon that stands in no brackets."""
    start = depth = 0
    for place, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if letter in ".;" and depth <= 0 and text[place + 1 : place + 2] == " ":
            yield text[start : place + 1]
            start = place + 2
    if text[start:]:
        yield text[start:]
