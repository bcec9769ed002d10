"""Paths and text that users name: homes that do not exist, encodings that are not UTF-8."""

from __future__ import annotations

import codecs
from pathlib import Path

from .errors import WamkitError

_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def expanded(path: str | Path) -> Path:
    """The path with `~` as the home it stands for; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def read_text(file: Path) -> str:
    """The text of a file in UTF-8, without the byte-order mark that some editors write.

    Raises WamkitError if it is in another encoding.
    """
    content = file.read_bytes()
    hint = f"save it as UTF-8, or: iconv -t UTF-8 {file.name} > new-{file.name}"
    if content.startswith(_WIDE):
        raise WamkitError(f"{file} is in UTF-16 or UTF-32, expected UTF-8", hint)
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise WamkitError(
            f"{file} is no text in UTF-8: line {line} holds the byte {content[error.start]:#x}",
            hint,
        ) from None


def expect_text(text: str, what: str) -> str:
    """`text`, if UTF-8 can write it. Raises WamkitError naming what cannot be written.

    A command line in another encoding than the terminal's arrives with half characters.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise WamkitError(
            f"the {what} holds characters that are not UTF-8, at place {error.start}: {shown!r}",
            "write it in UTF-8, and see that the terminal's locale is one (LANG=C.UTF-8)",
        ) from None
    return text
