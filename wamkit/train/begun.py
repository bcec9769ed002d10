"""What a run was begun with, as its folder tells it, and what is different now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .. import strict_yaml
from ..errors import WamkitError
from ..records import parsed
from ..runs import CHECKPOINTS, SETTINGS, SPEC
from ..spaces import Section
from ..spec import parse, read
from .config import TrainConfig

SHOWN = 6  # differences that are told of one kind


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
    if lacking := [k for k in TrainConfig.model_fields if k not in begun.settings]:
        words = ", ".join(f"settings.{name}" for name in lacking)
        raise WamkitError(f"{run / SETTINGS} is damaged: it lacks {words}", cure)
    parsed(run / SETTINGS, _Settings, strict_yaml.loads, cure)
    return begun, parse(read(run / SPEC), str(run / SPEC)).dump()


class _Settings(Section):
    """train.yaml once more, with the settings told apart."""

    settings: TrainConfig
    data: Read
    folder: str


def differences(
    begun: Begun,
    policy: Mapping[str, Any],
    told: Mapping[str, Any],
    spec: Mapping[str, Any],
    free: set[str],
) -> dict[str, str]:
    """What decides the numbers and is not what it was: name -> how it differs."""
    found = {}
    then, now = begun.model_dump(), json.loads(json.dumps(dict(told)))
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
