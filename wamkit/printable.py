"""Text from files, plugins, hubs and clients, such that a terminal or a page only shows it.

A terminal obeys what is among control characters: it moves its cursor, changes its title, follows
links, answers as if somebody had typed. Marks of direction make a text read as another one, and
half characters (lone surrogates) cannot be written at all.
"""

from __future__ import annotations

import html
import logging
import re

OBEYED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and new line, DEL, C1
    "\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f"  # direction, and separators of lines
    "\ufeff\ufff9-\ufffb\ud800-\udfff]"  # byte-order mark, annotations, surrogates
)
"""Characters that are not shown but obeyed, or that cannot be written."""


def printable(text: str, *, lines: bool = True) -> str:
    r"""`text` with every character that a terminal would obey written as Python writes it.

    Such as `\x1b` for escape. With `lines` false, new lines and tabs are written so as well: for
    what is one line whatever it holds. What is printable already is returned as it is.
    """
    found = OBEYED.sub(_written, text)
    return found if lines else found.replace("\n", "\\n").replace("\t", "\\t")


def escaped(value: object) -> str:
    """A value as text within HTML or SVG, or between the quotes of an attribute."""
    return html.escape(printable(str(value)), quote=True)


def in_markdown(value: object) -> str:
    """A value as text within a cell or a line of Markdown: no table, link or element of its own."""
    found = html.escape(printable(str(value), lines=False), quote=False)
    return re.sub(r"([|\[\]])", r"\\\1", found)


class OneLine(logging.Formatter):
    """A formatter of records whose messages hold what strangers sent: a line each, printable."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message, lines=False)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        return printable(super().formatException(ei))  # type: ignore[arg-type]


def _written(found: re.Match[str]) -> str:
    code = ord(found.group())
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
