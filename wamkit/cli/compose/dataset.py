"""What a LeRobot data set says about the robot: views, sizes, names of values, the rate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from textwrap import wrap
from typing import Any

from ...errors import WamkitError, printable
from .._folding import counted
from .._output import note

IMAGES = "observation.images."
HAND = "gripper"
"""Values that are called so are a group of their own: they open and close, they do not move."""


def facts_of(
    folder: str, key_map: Iterable[str] = ()
) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """Values for a spec, by path, and the size of each view's images.

    Raises WamkitError if `folder` is no data set, or has no actions or cameras.
    """
    from ...data.lerobot_format import Columns, LeRobotFolder

    columns, found = Columns.of(key_map), LeRobotFolder(folder)
    views = {key.removeprefix(IMAGES).rpartition(".")[2]: key for key in found.cameras}
    views |= columns.views
    if not views:
        raise WamkitError(f"{folder} has no camera", "name a data set with images")
    images = {view: found.feature(key, view).size for view, key in views.items()}
    labels = found.feature(columns.action, "action").labels
    values: dict[str, Any] = {
        "cameras.views": [{"name": view} for view in views],
        "actions.groups": groups_by_name(labels),
        "actions.control_hz": int(found.fps) if found.fps.is_integer() else found.fps,
    }
    if columns.state in found.features:
        values["state.size"] = prod(found.features[columns.state].shape)
    robot = found.info.get("robot_type") or "unknown"
    size = f"{counted(len(labels), 'action')}, a state of {values.get('state.size', 0)}"
    note(f"{folder}: robot {robot}, {counted(len(views), 'camera')}, {size}, {found.fps:g} Hz")
    others = [f"--key-map {view}={key}" for view, key in views.items() if key != IMAGES + view]
    others += [f"--key-map {k}={v}" for k, v in _unusual_columns(columns)]
    if others:
        note(f"train on it with {' '.join(others)}")
    return values, images


def names_of(folder: str, key_map: Iterable[str] = ()) -> tuple[str, ...]:
    """Lines that say which robot a data set is of, and what its values are called."""
    from ...data.lerobot_format import Columns, LeRobotFolder

    columns, found = Columns.of(key_map), LeRobotFolder(folder)
    lines = [f"Data: {folder}, of the robot {found.info.get('robot_type') or 'unknown'}."]
    for word, column in (("Actions", columns.action), ("State", columns.state)):
        if column in found.features:
            lines.append(f"{word}: {', '.join(found.features[column].labels)}.")
    return tuple(line for long in lines for line in wrap(printable(long, lines=False), 98))


def groups_by_name(labels: Sequence[str]) -> list[dict[str, Any]]:
    """Neighboring values whose names begin alike, as groups; grippers are groups by themselves.

    Values whose names say nothing are one group.
    """
    stems = [HAND if HAND in label.lower() else _stem(label) for label in labels]
    rest = [stem for stem in stems if stem != HAND]
    if len(set(rest)) > len(rest) / 2:  # joints, each with a name of its own
        stems = [stem if stem == HAND else "joints" for stem in stems]
    groups: list[dict[str, Any]] = []
    for stem, same in groupby(stems):
        names = [group["name"] for group in groups]
        place = 2
        name = stem
        while name in names:
            name, place = f"{stem}_{place}", place + 1
        groups.append({"name": name, "size": len(list(same))})
    return groups


def _stem(label: str) -> str:
    """The first word of a name; `action` for a number."""
    found = re.match(r"[A-Za-z]+", label.rpartition("/")[2])
    return found.group().lower() if found else "action"


def _unusual_columns(columns: Any) -> list[tuple[str, str]]:
    usual = {"state": "observation.state", "action": "action"}
    return [(k, getattr(columns, k)) for k, v in usual.items() if getattr(columns, k) != v]
