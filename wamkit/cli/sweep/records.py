"""What lies in a cell's folder: its resolved spec, and a record of each verb that was run there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ...errors import WamkitError
from ...files import strict_json
from ...files.durable import as_not_written, make_folder, write_text
from ...files.toml_text import drop_none, toml_text

SPEC = "spec.toml"
"""A cell's resolved spec."""
SCHEMA = 1
"""Version of the records, and of the results of a sweep."""


class Record(BaseModel):
    """What became of one verb in one cell: VERB.json in its folder."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    identity: str
    """Of the resolved spec and of all that was typed: the same for the same work."""
    state: Literal["running", "done", "failed", "interrupted"]
    seconds: float = 0.0
    """Of this session of it."""
    error: str | None = None
    report: dict[str, Any] | None = None
    """What the verb printed with --json."""


def identity(verb: str, spec: Mapping[str, Any], args: Sequence[str]) -> str:
    """A digest of a cell's resolved spec and of the args that its verb gets."""
    text = json.dumps([verb, spec, list(args)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def write_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    """Write the resolved spec of a cell into its folder, unless it is there."""
    with as_not_written(folder):
        make_folder(folder)
    file, text = folder / SPEC, toml_text(drop_none(spec))
    if not file.is_file() or file.read_text(errors="replace") != text:
        write_text(file, text)


def read_record(folder: Path, verb: str) -> Record | None:
    """The record of `verb` in a cell's folder; None if there is none, or none that can be read."""
    file = folder / f"{verb}.json"
    if not file.is_file():
        return None
    try:
        return Record.model_validate(strict_json.read(file, "remove it"))
    except (WamkitError, ValidationError):
        return None


def write_record(folder: Path, verb: str, record: Record) -> None:
    """Write the record of `verb` in a cell's folder, atomically."""
    write_text(folder / f"{verb}.json", strict_json.dumps(record.model_dump(), indent=2) + "\n")
