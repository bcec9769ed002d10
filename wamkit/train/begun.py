"""Settings that a run began with, read from its folder, and what is different now.

A run that was killed before its first checkpoint leaves a folder that holds nothing but what a run
writes until then (`is_begun`); it is begun again rather than refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..config.records import parsed
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
"""What a run writes before train.yaml."""
AFTER = {SETTINGS, LOG, IMAGINED, IDENTITY, "wandb", "log-damaged.jsonl"}
"""What it writes then, until its first checkpoint; and TensorBoard's files."""
EVENTS = "events.out.tfevents."


class Read(Section):
    """The data set of a run."""

    fingerprint: str
    latents: str | None
    columns: str


class Begun(Section):
    """train.yaml of a run."""

    settings: dict[str, Any]
    data: Read
    folder: str


def is_begun(run: Path) -> bool:
    """True if a folder holds only what a run writes before its first checkpoint, or nothing."""
    known = BEFORE | AFTER if (run / SETTINGS).exists() else BEFORE
    for place in run.iterdir():
        name = place.name
        hides = name.startswith(tuple(f".{file}." for file in BEFORE | AFTER))
        if not (name in known or hides or (known != BEFORE and name.startswith(EVENTS))):
            return False
    checkpoints = run / CHECKPOINTS
    inside = list(checkpoints.iterdir()) if checkpoints.is_dir() else []
    return all(place.name.startswith(".") for place in inside)


def read_unsaved(run: Path) -> tuple[Begun, dict[str, Any]] | None:
    """Settings and spec of a run that has no checkpoint yet; None if not both can be read.

    Raises WamkitError if its log says that there was a checkpoint.
    """
    try:
        found = read_begun(run)
    except WamkitError:
        return None
    settings = TrainConfig.model_validate(found[0].settings)
    first, logged = min(settings.save_every, settings.steps), newest_step(run / LOG)
    if logged > first:
        raise WamkitError(
            f"{run} has no checkpoint, and its {LOG} goes on to step {logged}: there was one after "
            f"step {first}",
            f"put {CHECKPOINTS} back from a copy, or begin a new run with another --out",
        )
    return found


def read_begun(run: Path) -> tuple[Begun, dict[str, Any]]:
    """Settings and data of the run in a folder, and its spec.

    Raises WamkitError with every fault if there is no run, or if its files are damaged.
    """
    if not (run / SETTINGS).exists() and not (run / CHECKPOINTS).exists():
        raise WamkitError(f"there is no run in {run}", "leave --resume out")
    cure = (
        f"put {SETTINGS} back from a copy, or begin a new run from a policy of this one: "
        f"wamkit train {run} --out ANOTHER"
    )
    if not (run / SPEC).is_file():
        raise WamkitError(
            f"{run} lacks {SPEC}, the policy that it was begun with", cure.replace(SETTINGS, SPEC)
        )
    begun = parsed(run / SETTINGS, Begun, strict_yaml.loads, cure)
    decisive = [name for name in TrainConfig.model_fields if name not in FREE]
    if lacking := [name for name in decisive if name not in begun.settings]:
        words = ", ".join(f"settings.{name}" for name in lacking)
        raise WamkitError(f"{run / SETTINGS} is damaged: it lacks {words}", cure)
    parsed(run / SETTINGS, _Settings, strict_yaml.loads, cure)
    return begun, parse(read(run / SPEC), str(run / SPEC)).dump()


class _Settings(Section):
    """train.yaml once more, with settings and data apart."""

    settings: TrainConfig
    data: Read
    folder: str


def differences(
    begun: Begun,
    policy: Mapping[str, Any],
    run_settings: Mapping[str, Any],
    spec: Mapping[str, Any],
    free: set[str],
) -> dict[str, str]:
    """What decides the numbers and is not what it was: name -> how it differs."""
    found = {}
    then, now = begun.model_dump(), json.loads(json.dumps(dict(run_settings)))
    if changed := list(_changes(policy, spec)):
        found["spec"] = "; ".join(changed[:SHOWN])
    if changed := list(_changes(then["data"], now["data"], "data")):
        found["data"] = "; ".join(changed[:SHOWN])
    for name, value in now["settings"].items():
        if name not in free and begun.settings.get(name) != value:
            found[name] = "; ".join(_changes(begun.settings.get(name), value, name))
    return found


def _changes(then: Any, now: Any, name: str = "") -> Iterator[str]:
    """Where two trees of plain data differ, in words."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _changes(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif then != now:
        yield f"{name} was {then!r}, is {now!r}"
