"""Text from files, plugins, hubs and clients, such that a terminal or a page only shows it.

A terminal obeys control characters: it moves its cursor, changes its title, follows
links, answers as if somebody had typed. Marks of direction make a text read as another one, and
half characters (lone surrogates) cannot be written at all.
"""

from __future__ import annotations

import html
import logging
import re

from ..errors import printable


def escape_markdown(value: object) -> str:
    """Escape a value for a cell or a line of Markdown: no table, link or element of its own."""
    found = html.escape(printable(str(value), lines=False), quote=False)
    return re.sub(r"([|\[\]])", r"\\\1", found)


class OneLine(logging.Formatter):
    """A log formatter for messages with untrusted content: one printable line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message in one line, with control characters escaped."""
        record.message = printable(record.message, lines=False)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:
        """The traceback, with control characters escaped."""
        return printable(super().formatException(ei))  # type: ignore[arg-type]
