"""What may stand in the files of a suite's folder, which may come from another machine."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from ...config.mistakes import explain_mistakes
from ...config.seeds import MOST
from ...errors import WamkitError
from ...files import strict_json
from ...files.paths import fault_of_name

if TYPE_CHECKING:
    from .files import EpisodeRecord

MOST_EPISODES = 1_000_000
"""Of a task."""


class _Stored(BaseModel):
    """A table of such a file; other keys may stand there, of a version that knows more."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False, strict=True)


class _Settings(_Stored):
    """What decides the results."""

    suite: str
    tasks: list[str] = Field(min_length=1)
    episodes_per_task: int = Field(gt=0, le=MOST_EPISODES)
    seed: int = Field(ge=0, le=MOST)
    environment: dict[str, Any]
    simulators: int = Field(gt=0)
    policy: dict[str, Any]


class _Start(_Stored):
    """What one start of the command was computed with."""

    policy: str
    versions: dict[str, str]
    rendering: dict[str, str]
    device: str
    machine: str
    command: list[str]
    begun: str
    control_hz: float = Field(gt=0)


class _File(_Stored):
    """settings.json."""

    settings: _Settings
    starts: list[_Start] = Field(min_length=1)


def read_settings(file: Path) -> dict[str, Any]:
    """The settings and the starts, as plain data. Raises WamkitError with every fault."""
    hint = "copy the folder again, or choose another --out"
    found: dict[str, Any] = strict_json.read(file, hint)
    try:
        _File.model_validate(found)
    except ValidationError as error:
        faults = explain_mistakes(error, "", _File)[:8]
        reasons = "; ".join(": ".join(filter(None, (*one.between, one.why))) for one in faults)
        raise WamkitError(f"{file} is damaged: {reasons}", hint) from None
    return found


def parse_episode(line: str) -> EpisodeRecord:
    """An episode of a line. Raises ValueError if it is none."""
    from .files import EpisodeRecord

    found = strict_json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(f"it is {found!r:.80}, expected a table")
    if unknown := sorted(found.keys() - {field.name for field in fields(EpisodeRecord)}):
        raise ValueError(f"unknown {', '.join(map(repr, unknown))}")
    try:
        record: EpisodeRecord = _adapter(EpisodeRecord).validate_json(line, strict=True)
    except ValidationError as error:
        raise ValueError(
            "; ".join(
                f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
                for item in error.errors(include_url=False)
            )
        ) from None
    if min(record.episode, record.seed, record.steps) < 0:
        raise ValueError("episode, seed and steps count from 0")
    if record.timing is not None and {4} != {
        len(record.timing.seams.totals),
        len(record.timing.seams.counts),
    }:
        raise ValueError("timing.seams with other than 4 totals and counts")
    if record.film is not None and (
        (fault := fault_of_name(record.film)) is not None or "/" in record.film
    ):
        raise ValueError(f"film: {record.film!r:.80} {fault or 'is in another folder'}")
    return record


@cache
def _adapter(cls: type[EpisodeRecord]) -> TypeAdapter[EpisodeRecord]:
    return TypeAdapter(cls)
