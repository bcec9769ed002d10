"""Read settings files in TOML, YAML or JSON with limits on size and depth, and clear errors.

The text is not trusted. Reading any text takes under a few seconds and little memory,
gives plain data (tables, lists, text, numbers, booleans, null) and does nothing else.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from . import strict_json
from .paths import expect_text, read_text
from .placeholders import refuse_placeholder

BYTES = 2**18
"""The largest file of settings that is read; a spec with every default written out has 10 kB."""
DEPTH = 60
"""How deep tables and lists may be nested, and of how many parts a key of TOML may be."""
SUFFIXES = (".toml", ".yaml", ".yml", ".json")

_TOML_TEXT = re.compile(
    r'"""(?:\\.|(?!""").)*"{3,5}|\'\'\'(?:(?!\'\'\').)*\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\'|#[^\n]*',
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"""(?:[ \t]*\.[ \t]*[\w"-]+){{{DEPTH}}}""")
_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", re.DOTALL)


def read_table(file: Path, what: str, start: str) -> dict[str, Any]:
    """The table in a file of settings.

    `what` the file should be, such as "spec", and what to `start` from are for the errors. Raises
    WamkitError with line and column if it is too large, cannot be read, or holds no table.
    """
    if file.suffix not in SUFFIXES:
        raise WamkitError(
            f"{file} is no {what}: its name ends in {file.suffix!r}",
            f"a {what} is a .toml, .yaml or .json file",
        )
    refuse_placeholder(file)
    try:
        if not file.is_file():
            why = "it is no file" if file.exists() else "there is no such file"
            raise WamkitError(f"{file} cannot be read: {why}", f"name a file: {start}")
        if (size := file.stat().st_size) > BYTES:
            raise WamkitError(
                f"{file} has {size:,} bytes, a {what} has at most {BYTES:,}", f"name a {what}"
            )
        text = read_text(file)
    except OSError as error:
        raise WamkitError(f"{file} cannot be read: {error.strerror}", "see who may") from None
    try:
        raw = parser_of(file.suffix)(text)
    except ValueError as error:
        raise WamkitError(f"{file} cannot be read: {error}", "correct it there") from None
    if not isinstance(raw, dict):
        found = type(raw).__name__ if raw is not None else "nothing"
        raise WamkitError(f"{file} holds {_article(found)}, a {what} is a table", start)
    expect_plain(raw, str(file))
    return raw


def _article(found: str) -> str:
    return found if found == "nothing" else f"a {found}"


def parser_of(suffix: str) -> Callable[[str], Any]:
    """Return the parser for files with this suffix; it raises ValueError."""
    if suffix == ".toml":
        return parse_toml
    if suffix == ".json":
        return strict_json.loads
    from . import strict_yaml

    return strict_yaml.loads


def parse_toml(text: str) -> dict[str, Any]:
    """Parse `text`, which is not trusted, as a table. Raises ValueError with line and column."""
    stripped = without_strings(text)
    if found := _LONG_KEY.search(stripped):
        line = stripped.count("\n", 0, found.start()) + 1
        raise ValueError(f"line {line}: a key of more than {DEPTH} parts")
    if line := _too_deep(stripped):
        raise ValueError(f"line {line}: it is nested deeper than {DEPTH} levels")
    try:
        raw = tomllib.loads(f"{text}\n")
    except tomllib.TOMLDecodeError as error:
        raise ValueError(_toml_message(str(error))) from None
    except RecursionError:
        raise ValueError(f"it is nested deeper than {DEPTH} levels") from None
    except ValueError:  # Python converts no more digits
        raise ValueError("it holds a number of more than 4,300 digits") from None
    strict_json.expect_shallow(raw, DEPTH)
    return raw


def without_strings(text: str) -> str:
    """Remove comments from TOML and empty its strings; keep the line count."""
    return _TOML_TEXT.sub(_blank, text)


def _blank(found: re.Match[str]) -> str:
    """Replace a comment by nothing and a string by an empty one; keep the line count."""
    text = found.group()
    return ("" if text.startswith("#") else '""') + "\n" * text.count("\n")


def _too_deep(stripped: str) -> int:
    """Return the line where brackets are opened `DEPTH` levels deep; 0 if there is none."""
    depth = 0
    for found in re.finditer(r"[\[\]{}]", stripped):
        depth += 1 if found.group() in "[{" else -1
        if depth > DEPTH:
            return stripped.count("\n", 0, found.start()) + 1
    return 0


def _toml_message(message: str) -> str:
    """Rewrite an error of tomllib with line and column first, as YAML and JSON errors have it."""
    found = _PLACE.fullmatch(message)
    if found is None:
        return message
    what, line, column, end = found.groups()
    return f"at the end: {what}" if end else f"line {line}, column {column}: {what}"


def expect_plain(raw: Mapping[str, Any], where: str) -> None:
    """Refuse values that not all three formats can express: dates, and lone surrogates.

    Raises WamkitError with the path of the value.
    """
    _expect_plain(raw, where, "")


def _expect_plain(value: Any, where: str, path: str) -> None:
    place = f"{where}: {path}" if path else where
    if isinstance(value, str):
        expect_text(value, f"value of {place}")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            expect_text(str(key), f"key in {place}")
            _expect_plain(inner, where, f"{path}.{key}" if path else str(key))
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            _expect_plain(inner, where, f"{path}.{index}")
    elif value is not None and not isinstance(value, bool | int | float):
        raise WamkitError(
            f"{place} is a {type(value).__name__} ({value}), expected text, a number or a table",
            "put it in quotes if it is text",
        )
