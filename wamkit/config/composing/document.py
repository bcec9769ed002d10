"""A composed spec as a file: TOML, with the meaning of each key."""

from __future__ import annotations

import re
from collections.abc import Mapping
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
        return _sentence(_meaning(raw, path))

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


def _sentence(text: str) -> str:
    """The first sentence, without its period."""
    plain = " ".join(text.replace("`", "").split())
    return re.split(r"(?<=[.;])\s", plain, maxsplit=1)[0].rstrip(".;:")
