"""Paths and text that users and files name: homes, encodings, names that leave a folder."""

from __future__ import annotations

import codecs
import os
import unicodedata
from pathlib import Path, PureWindowsPath

from ..errors import WamkitError
from .variables import CACHE

LONGEST_PART = 255
"""Bytes of one part of a path, as most file systems bound it."""
LONGEST = 1024
"""Bytes of a relative path that a file may name."""
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, half characters, line separators
_WIDE = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def expand_home(path: str | Path) -> Path:
    """Replace `~` by the home folder; unchanged if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def cache_folder() -> Path:
    """The user's cache folder: `WAMKIT_CACHE`, or ~/.cache/wamkit.

    What lies there is trusted as the user's own, unlike files of data sets and policies.
    """
    return expand_home(os.environ.get(CACHE) or Path("~", ".cache", "wamkit"))


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
        readable = text.encode("utf-8", "backslashreplace").decode()
        raise WamkitError(
            f"the {what} holds characters that are not UTF-8, at place {error.start}: {readable!r}",
            "write it in UTF-8, and see that the terminal's locale is one (LANG=C.UTF-8)",
        ) from None
    return text


def resolve_inside(root: Path, name: object, what: str) -> Path:
    """`root / name`, where `name` comes from a file and is not trusted.

    `what` names the place that `name` was read from, for the error. `name` is judged by its text
    alone, before anything is opened: a file below `root` may be a symbolic link, as in the cache of
    the Hugging Face hub. Raises WamkitError as `fault_of_name` describes.
    """
    if (fault := fault_of_name(name)) is not None:
        raise WamkitError(
            f"{what} names the file {str(name)[:80]!r}, which {fault}",
            f"name a file below {root}: relative, with / between its parts",
        )
    return root / str(name)


def fault_of_name(name: object) -> str | None:
    """Why `name` is no relative path of a file that every system understands; None if it is one.

    Refused are other types than text, absolute paths, drives, backslashes, control characters,
    empty parts, the parts `.` and `..`, parts of more than 255 and paths of more than 1024 bytes.
    """
    if not isinstance(name, str):
        return f"is a {type(name).__name__}, expected text"
    if not name:
        return "is empty"
    if bad := next((c for c in name if unicodedata.category(c) in _UNPRINTABLE), None):
        return f"holds the control character U+{ord(bad):04X}"
    if "\\" in name:
        return "holds a backslash"
    if name.startswith("/") or PureWindowsPath(name).anchor:
        return "is an absolute path"
    for part in (parts := name.split("/")):
        if not part:
            return "has an empty part"
        if part in (".", ".."):
            return f"has the part {part!r}"
        if (size := len(part.encode())) > LONGEST_PART:
            return f"has a part of {size:,} bytes, at most {LONGEST_PART} can be written"
    if (size := sum(len(part.encode()) + 1 for part in parts) - 1) > LONGEST:
        return f"has {size:,} bytes, at most {LONGEST:,} are read"
    return None
