"""Untrusted values and text, short and without control characters, for messages and logs."""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np

from ..errors import printable

LONGEST = 60
"""Characters of a value that are quoted."""
LINE = 2000
"""Characters of a message that are passed on."""


def quote(value: Any) -> str:
    """Return the repr of a value if it is short and safe, else its type."""
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


def list_values(values: Any, most: int = 8) -> str:
    """List values, quoted and separated by commas; count those after `most`."""
    values = list(values)
    rest = f" and {len(values) - most} more" if len(values) > most else ""
    return ", ".join(map(quote, values[:most])) + rest


def control_character(text: str) -> int | None:
    """Index of the first control character that is no tab or line break, or None."""
    bad = (at for at, c in enumerate(text) if c not in "\t\n\r" and unicodedata.category(c) == "Cc")
    return next(bad, None)


def truncate_text(text: str, most: int = LINE) -> str:
    """Make text printable for a message or a log, and truncate it to `most` characters."""
    return printable(text[:most]) + (f"... ({len(text)} characters)" if len(text) > most else "")
