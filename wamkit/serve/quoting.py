"""Values and text of strangers, short and without control characters, for messages and logs."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from ..errors import printable

LONGEST = 60
"""Characters of a value that are quoted."""
LINE = 2000
"""Characters of a message that are passed on."""


def quoted(value: Any) -> str:
    """A value as Python writes it, if that is short and safe, else what kind of value it is."""
    if isinstance(value, str | bytes):
        more = "..." if len(value) > LONGEST else ""
        return f"{value[:LONGEST]!r}{more}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, np.ndarray):
        return f"an array {value.dtype} {list(value.shape)}"
    if isinstance(value, list | dict):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def listed(values: Any, most: int = 8) -> str:
    """Values, quoted and separated by commas; of more than `most`, how many there are beside."""
    values = list(values)
    rest = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(quoted, values[:most])) + rest


def control_character(text: str) -> int | None:
    """The place of the first control character that is no tab or line break, or None."""
    bad = (at for at, c in enumerate(text) if c not in "\t\n\r" and unicodedata.category(c) == "Cc")
    return next(bad, None)


def brief(text: str, most: int = LINE) -> str:
    """Text for a message or a log: printable, and of what is longer than `most`, the beginning."""
    return printable(text[:most]) + (f"... ({len(text)} characters)" if len(text) > most else "")
