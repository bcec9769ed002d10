"""Settings of a training run, read from its folder and compared with the current ones.

A run that was killed before its first checkpoint leaves a folder with only the files that a run
writes until then (`has_only_startup_files`); it is begun again rather than refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.records import parse_record
from ..config.robot import Section
from ..config.runs import CHECKPOINTS, LOG, SETTINGS, SPEC
from ..config.spec import parse, read
from ..errors import WamkitError
from ..files import strict_yaml
from ..files.locking import NAME as LOCK
from .config import FREE, TrainConfig
from .loggers import IDENTITY
from .logs import newest_step

SHOWN = 6  # differences of one kind that a message lists
IMAGINED = "imagined"
BEFORE = {CHECKPOINTS, SPEC, LOCK}
"""Files that a run writes before train.yaml."""
AFTER = {SETTINGS, LOG, IMAGINED, IDENTITY, "wandb", "log-damaged.jsonl"}
"""Files that it writes until its first checkpoint, besides TensorBoard's."""
EVENTS = "events.out.tfevents."


class DataRecord(Section):
    """The data set of a run."""

    fingerprint: str
    latents: str | None
    columns: str


class RunRecord(Section):
    """train.yaml of a run."""

    settings: dict[str, Any]
    data: DataRecord
    folder: str


def has_only_startup_files(run: Path) -> bool:
    """True if a folder holds only files that a run writes before its first checkpoint, or none."""
    known = BEFORE | AFTER if (run / SETTINGS).exists() else BEFORE
    for place in run.iterdir():
        name = place.name
        hides = name.startswith(tuple(f".{file}." for file in BEFORE | AFTER))
        if not (name in known or hides or (known != BEFORE and name.startswith(EVENTS))):
            return False
    checkpoints = run / CHECKPOINTS
    inside = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
    return all(place.name.startswith(".") for place in inside)


def read_run_without_checkpoint(run: Path) -> tuple[RunRecord, dict[str, Any]] | None:
    """Settings and spec of a run that has no checkpoint yet; None if not both can be read.

    Raises WamkitError if its log shows that there was a checkpoint.
    """
    try:
        found = read_run(run)
    except WamkitError:
        return None
    settings = TrainConfig.model_validate(found[0].settings)
    first, logged = min(settings.save_every, settings.steps), newest_step(run / LOG)
    if logged > first:
        raise WamkitError(
            f"{run} has no checkpoint, and its {LOG} reaches step {logged}: there was one after "
            f"step {first}",
            f"put {CHECKPOINTS} back from a copy, or begin a new run with another --out",
        )
    return found


def read_run(run: Path) -> tuple[RunRecord, dict[str, Any]]:
    """Settings and data of the run in a folder, and its spec.

    Raises WamkitError with every fault if there is no run, or if its files are damaged.
    """
    if not (run / SETTINGS).exists() and not (run / CHECKPOINTS).exists():
        raise WamkitError(f"there is no run in {run}", "leave --resume out")
    hint = (
        f"put {SETTINGS} back from a copy, or begin a new run from a policy of this one: "
        f"wamkit train {run} --out ANOTHER"
    )
    if not (run / SPEC).is_file():
        raise WamkitError(
            f"{run} lacks {SPEC}, the policy that it was begun with", hint.replace(SETTINGS, SPEC)
        )
    record = parse_record(run / SETTINGS, RunRecord, strict_yaml.loads, hint)
    decisive = [name for name in TrainConfig.model_fields if name not in FREE]
    if lacking := [name for name in decisive if name not in record.settings]:
        missing = ", ".join(f"settings.{name}" for name in lacking)
        raise WamkitError(f"{run / SETTINGS} is damaged: it lacks {missing}", hint)
    parse_record(run / SETTINGS, _Settings, strict_yaml.loads, hint)
    return record, parse(read(run / SPEC), str(run / SPEC)).dump()


class _Settings(Section):
    """train.yaml, validated strictly."""

    settings: TrainConfig
    data: DataRecord
    folder: str


def differences(
    record: RunRecord,
    policy: Mapping[str, Any],
    run_settings: Mapping[str, Any],
    spec: Mapping[str, Any],
    free: set[str],
) -> dict[str, str]:
    """Settings that affect the result and have changed: name -> difference."""
    found = {}
    then, now = record.model_dump(), json.loads(json.dumps(dict(run_settings)))
    if changed := list(_changes(policy, spec)):
        found["spec"] = "; ".join(changed[:SHOWN])
    if changed := list(_changes(then["data"], now["data"], "data")):
        found["data"] = "; ".join(changed[:SHOWN])
    for name, value in now["settings"].items():
        if name not in free and record.settings.get(name) != value:
            found[name] = "; ".join(_changes(record.settings.get(name), value, name))
    return found


def _changes(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Yield the differences of two trees of plain data, such as "lr was 0.1, is 0.2"."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _changes(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, is {now!r}"
