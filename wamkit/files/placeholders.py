"""What lies in place of a file whose content did not come along, recognized by its beginning.

A clone without git-lfs, a refused download or an interrupted one leaves a small file under the
right name. Readers check here first, so that the error names the real cause.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import WamkitError

BEGINNING = 1024  # bytes that are read
_LFS = re.compile(rb"version https?://[\w.-]*(git-lfs|git-media|hawser)[\w./-]*spec")
_XET = re.compile(rb"# xet version \d")
_PAGE = re.compile(rb"\s*(<!doctype html|<html|<head|<script)", re.IGNORECASE)
_REFUSAL = re.compile(
    rb"\s*(\{\s*\"(error|errors|message|detail)\"\s*:|<\?xml[^>]*>\s*<error>|"
    rb"(entry|repository|file|page) not found|access to model .{0,200} is restricted|"
    rb"invalid (username|credentials)|access denied|unauthorized|404: not found|403 forbidden)",
    re.IGNORECASE,
)
_UNFINISHED = (".incomplete", ".part", ".crdownload", ".aria2", ".download")


def placeholder_error(file: Path) -> WamkitError | None:
    """Return the error for a placeholder in place of `file`; None if it is a real file.

    A file that is missing or cannot be opened is left to its reader.
    """
    try:
        if not file.is_file():
            return _special(file)
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(BEGINNING)
    except OSError:
        return None
    if file.suffix in _UNFINISHED:
        return WamkitError(
            f"{file} is a download that did not finish ({size:,} bytes so far)",
            "download it again; the finished file has no such ending",
        )
    if size == 0:
        return WamkitError(f"{file} is empty (0 bytes)", "download or copy it again")
    if _LFS.match(start):
        return _pointer(file, start, rb"^size (\d+)\s*$", "git-lfs", "git lfs pull")
    if _XET.match(start):
        return _pointer(file, start, rb"^filesize = (\d+)\s*$", "git-xet", "git xet checkout")
    if _PAGE.match(start):
        return WamkitError(
            f"{file} is a web page (HTML) that was saved under the file's name",
            "the download was answered with a page, such as one to log in: download the file "
            "itself, as `hf download OWNER/NAME` does",
        )
    if _REFUSAL.match(start):
        message = " ".join(start[:160].decode(errors="replace").split())
        return WamkitError(
            f"{file} holds the error message of a refused download: {message}",
            "log in, accept the license if there is one, and download the file again",
        )
    return None


def _special(file: Path) -> WamkitError | None:
    """The error for a pipe, a device or a socket, which may be read for ever; None for others."""
    if not file.exists() or file.is_dir() or file.is_file():
        return None
    return WamkitError(
        f"{file} is no regular file: it is a pipe, a device or a socket", "name a file on a disk"
    )


def refuse_placeholder(file: Path) -> None:
    """Raise WamkitError if something else lies in place of `file`, saying what."""
    if found := placeholder_error(file):
        raise found


def refuse_special(file: Path) -> None:
    """Raise WamkitError if `file` is a pipe, a device or a socket, which may be read for ever."""
    if found := _special(file):
        raise found


def _pointer(file: Path, start: bytes, size: bytes, tool: str, command: str) -> WamkitError:
    size_line = re.search(size, start, re.MULTILINE)
    real = f", whose content has {int(size_line[1]):,} bytes" if size_line else ""
    return WamkitError(
        f"{file} is a pointer of {tool}, not the file itself{real}; `{command}` fetches it",
        f"the repository was cloned without {tool}: install it, and run `{command}` in its folder",
    )
