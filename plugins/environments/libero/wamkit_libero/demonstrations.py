"""Demonstrations in LIBERO's own HDF5 layout, read as a checkpoint's conventions have them.

A file holds one task: `data/demo_0` and so on, each with `actions` [T, 7] and, under `obs`, images
as the simulator stores them, bottom row first.

Letters: T actions of a demonstration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wamkit.errors import WamkitError
from wamkit.simulate.convert import Demonstrations
from wamkit.simulate.environment import EnvObservation
from wamkit.simulate.episodes import Frame, Rollout

from .coding import encode_action, make_robot, turn_image
from .tasks import INSTRUCTIONS, find_task

if TYPE_CHECKING:
    from . import Libero

IMAGES = ("obs/agentview_rgb", "obs/eye_in_hand_rgb")
STATES = {
    "pose_gripper": ("obs/ee_states", "obs/gripper_states"),
    "gripper_pose": ("robot_states",),
    "gripper_joints": ("obs/gripper_states", "obs/joint_states"),
}
"""Kind of state -> where LIBERO's files have its parts."""


def open_file(path: Path, config: Libero) -> Demonstrations:
    """Open a file of demonstrations. Raises WamkitError if it is none, or damaged."""
    try:
        import h5py
    except ModuleNotFoundError:
        raise WamkitError("HDF5 files need h5py", "pip install h5py") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "there is no such file" if not path.exists() else str(error)
        raise WamkitError(
            f"{path} cannot be read as HDF5: {reason}", "name LIBERO's files"
        ) from None
    group = file.get("data")
    names = [name for name in group or () if re.fullmatch(r"demo_[0-9]+", name)]
    if not names:
        raise WamkitError(
            f"{path} has no data/demo_0: it is not in LIBERO's layout",
            "name the files *_demo.hdf5 of LIBERO",
        )
    names.sort(key=lambda name: int(name.removeprefix("demo_")))
    first = _read(path, group[names[0]], IMAGES[0], 4)
    robot = make_robot(config.convention, (int(first.shape[1]), int(first.shape[2])))
    instruction = config.instruction or _find_instruction(path, group)

    def rollouts() -> Iterator[Rollout]:
        with file:
            for number, name in enumerate(names):
                yield _read_demonstration(path, group[name], number, instruction, config)

    return Demonstrations(robot, rollouts())


def _find_instruction(path: Path, group: Any) -> str:
    """The instruction of the task by which the file is named, or else the file's own."""
    try:
        return INSTRUCTIONS[find_task(path.name.removesuffix(path.suffix).removesuffix("_demo"))]
    except ValueError:
        pass
    try:
        return str(json.loads(group.attrs["problem_info"])["language_instruction"]).strip('" ')
    except (KeyError, ValueError, TypeError):
        raise WamkitError(
            f"{path} says no instruction: neither its name nor data.problem_info",
            '--env-arg instruction="..."',
        ) from None


def _read(path: Path, group: Any, key: str, axes: int) -> NDArray[Any]:
    """Read a data set of a demonstration. Raises WamkitError if it is missing or odd."""
    found = group.get(key)
    where = f"{path}, {group.name.lstrip('/')}"
    if found is None or not hasattr(found, "shape"):
        raise WamkitError(f"{where}: no {key}", "take whole files of LIBERO")
    if len(found.shape) != axes or not len(found) or (axes == 4 and found.shape[3] != 3):
        raise WamkitError(
            f"{where}: {key} is {list(found.shape)}, expected {axes} axes",
            "take whole files of LIBERO",
        )
    values = np.asarray(found)
    if not np.isfinite(values).all():
        raise WamkitError(f"{where}: {key} holds values that are not finite", "leave the file out")
    return values


def _read_demonstration(
    path: Path, group: Any, number: int, instruction: str, config: Libero
) -> Rollout:
    convention = config.convention
    actions = _read(path, group, "actions", 2)
    images = [_read(path, group, key, 4) for key in IMAGES]
    state = np.concatenate([_read_state(path, group, key) for key in STATES[convention.state]], 1)
    lengths = {len(actions), len(state), *map(len, images)}
    if len(lengths) != 1 or actions.shape[1] != 7:
        raise WamkitError(
            f"{path}, {group.name.lstrip('/')}: actions are {list(actions.shape)}, states "
            f"{list(state.shape)}, images {', '.join(str(len(one)) for one in images)}",
            "expected [T, 7], and T of each; leave the file out",
        )
    solved = np.zeros(len(actions), bool)
    for key in ("rewards", "dones"):
        if key in group:
            solved |= _read(path, group, key, 1).astype(bool)[: len(solved)]
    frames = tuple(
        Frame(
            EnvObservation(
                {
                    name: turn_image(convention, one[step][::-1].astype(np.uint8))
                    for name, one in zip(convention.cameras, images, strict=True)
                },
                state[step].astype(np.float32),
                instruction,
            ),
            encode_action(convention, actions[step]).astype(np.float32),
            float(solved[step]),
            bool(solved[step]),
        )
        for step in range(len(actions))
    )
    return Rollout(number, True, float(solved.sum()), len(frames), instruction, frames=frames)


def _read_state(path: Path, group: Any, key: str) -> NDArray[Any]:
    return _read(path, group, key, 2)
