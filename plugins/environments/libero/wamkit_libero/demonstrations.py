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
    "pose_gripper": {"obs/ee_states": 6, "obs/gripper_states": 2},
    "gripper_pose": {"robot_states": 9},
    "gripper_joints": {"obs/gripper_states": 2, "obs/joint_states": 7},
}
"""Kind of state -> where LIBERO's files have its parts, and how many values each has."""
_LARGEST = float(np.finfo(np.float32).max)


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
    if not isinstance(group, h5py.Group):
        raise WamkitError(
            f"{path} has no group data: it is not in LIBERO's layout",
            "name the files *_demo.hdf5 of LIBERO",
        )
    names = [name for name in group if re.fullmatch(r"demo_[0-9]+", name)]
    if not names:
        raise WamkitError(
            f"{path} has no data/demo_0: it is not in LIBERO's layout",
            "name the files *_demo.hdf5 of LIBERO",
        )
    names.sort(key=lambda name: int(name.removeprefix("demo_")))
    demonstrations = [group.get(name) for name in names]
    if odd := [
        f"data/{name}"
        for name, one in zip(names, demonstrations, strict=True)
        if not isinstance(one, h5py.Group)
    ]:
        raise WamkitError(
            f"{path}: {', '.join(odd)}: not a group with actions and obs",
            "take whole files of LIBERO",
        )
    size = _find_images(path, demonstrations[0], IMAGES[0]).shape[1:3]
    robot = make_robot(config.convention, size)
    instruction = config.instruction or _find_instruction(path, group)

    def rollouts() -> Iterator[Rollout]:
        with file:
            for number, one in enumerate(demonstrations):
                yield _read_demonstration(path, one, number, instruction, config, size)

    return Demonstrations(robot, rollouts())


def _find_instruction(path: Path, group: Any) -> str:
    """The instruction of the task by which the file is named, or else the file's own."""
    try:
        return INSTRUCTIONS[find_task(path.name.removesuffix(path.suffix).removesuffix("_demo"))]
    except ValueError:
        pass
    hint = '--env-arg instruction="..."'
    try:
        stored = group.attrs["problem_info"]
        if not isinstance(stored, str | bytes):
            raise TypeError(f"problem_info is a {type(stored).__name__}")
        found = json.loads(stored)["language_instruction"]
    except (KeyError, ValueError, TypeError, OSError, RecursionError):
        raise WamkitError(
            f"{path} says no instruction: neither its name nor data.problem_info", hint
        ) from None
    parts = [found] if isinstance(found, str) else found
    if not isinstance(parts, list) or not all(isinstance(word, str) for word in parts):
        raise WamkitError(
            f"{path}: language_instruction of data.problem_info is {found!r:.80}, expected text",
            hint,
        )
    joined = "".join(parts)  # as LIBERO's own reader does
    if len(parts) > 1 and " " not in joined:
        raise WamkitError(
            f"{path}: language_instruction of data.problem_info is {found!r:.80}, words without "
            "spaces between them",
            hint,
        )
    if not (instruction := joined.strip('" ')):
        raise WamkitError(
            f"{path}: language_instruction of data.problem_info is an empty instruction", hint
        )
    return instruction


def _find(path: Path, group: Any, key: str) -> Any:
    """A data set of a demonstration. Raises WamkitError if there is none."""
    found = group.get(key)
    if not getattr(found, "shape", None):
        raise WamkitError(f"{_name(path, group)}: no {key}", "take whole files of LIBERO")
    return found


def _find_images(path: Path, group: Any, key: str) -> Any:
    """The images of a camera, [T, height, width, 3]. Raises WamkitError if they are not 8-bit."""
    found = _find(path, group, key)
    shape = list(found.shape)
    if found.dtype != np.uint8:
        raise WamkitError(
            f"{_name(path, group)}: {key} are {found.dtype}, expected uint8",
            "store images as bytes: those in [0, 1] as (255 * images).round().astype(np.uint8)",
        )
    if len(shape) != 4 or shape[3] != 3 or 0 in shape:
        hint = "take whole files of LIBERO"
        if len(shape) == 4 and shape[1] == 3:
            hint = "move the colors last: np.moveaxis(images, 1, -1)"
        elif len(shape) == 4 and shape[3] == 4:
            hint = "store red, green and blue alone: images[..., :3]"
        raise WamkitError(
            f"{_name(path, group)}: {key} are {shape}, expected [T, height, width, 3]", hint
        )
    return found


def _read_images(path: Path, group: Any, key: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read the images of a camera; `size` is their height and width."""
    found = _find_images(path, group, key)
    if found.shape[1:3] != size:
        raise WamkitError(
            f"{_name(path, group)}: {key} are {list(found.shape)}, and the first images of the "
            f"file are of {size[0]} x {size[1]} pixels",
            "render all images of a data set at one size",
        )
    return _load(path, group, key, found)


def _read_numbers(path: Path, group: Any, key: str, *rest: int) -> NDArray[np.float64]:
    """Read numbers [T, *rest]. Raises WamkitError if they are none, or beyond float32."""
    found = _find(path, group, key)
    if found.dtype.kind not in "iufb":
        raise WamkitError(
            f"{_name(path, group)}: {key} are {found.dtype}, expected numbers",
            "store them as float64, as LIBERO does",
        )
    if found.shape != (len(found), *rest) or not len(found):
        raise WamkitError(
            f"{_name(path, group)}: {key} are {list(found.shape)}, expected "
            f"[{', '.join(['T', *map(str, rest)])}]",
            "take whole files of LIBERO",
        )
    values = _load(path, group, key, found).astype(np.float64)
    if not (np.abs(values) <= _LARGEST).all():  # a NaN neither
        raise WamkitError(
            f"{_name(path, group)}: {key} hold values that are not finite in float32",
            "leave the demonstration out",
        )
    return values


def _load(path: Path, group: Any, key: str, found: Any) -> NDArray[Any]:
    """The values of a data set. Raises WamkitError if they are damaged, or too many to hold."""
    try:
        return np.asarray(found)
    except (OSError, RuntimeError, MemoryError) as error:
        raise WamkitError(
            f"{_name(path, group)}: {key} cannot be read: {error or 'it is too large'}",
            "copy the file again",
        ) from None


def _read_solved(path: Path, group: Any, length: int) -> NDArray[Any]:
    """Where the task is solved, [T]: rewards or dones are 1. Nowhere if the file has neither."""
    solved = np.zeros(length, bool)
    for key in ("rewards", "dones"):
        if key not in group:
            continue
        values = _read_numbers(path, group, key)
        if len(values) != length:
            raise WamkitError(
                f"{_name(path, group)}: {key} are {list(values.shape)}, and there are {length} "
                "actions",
                "all have one length in LIBERO's files; leave the demonstration out",
            )
        if not np.isin(values, (0, 1)).all():
            odd = values[~np.isin(values, (0, 1))][0]
            raise WamkitError(
                f"{_name(path, group)}: {key} hold {odd:g}, expected 1 where the task is solved "
                "and 0 elsewhere",
                "store them so, or leave them out",
            )
        solved |= values == 1
    return solved


def _name(path: Path, group: Any) -> str:
    return f"{path}, {group.name.lstrip('/')}"


def _read_demonstration(
    path: Path, group: Any, number: int, instruction: str, config: Libero, size: tuple[int, int]
) -> Rollout:
    convention = config.convention
    actions = _read_numbers(path, group, "actions", 7)
    images = [_read_images(path, group, key, size) for key in IMAGES]
    parts = STATES[convention.state].items()
    state = np.concatenate([_read_numbers(path, group, key, width) for key, width in parts], 1)
    lengths = {len(actions), len(state), *map(len, images)}
    if len(lengths) != 1:
        raise WamkitError(
            f"{_name(path, group)}: actions are {list(actions.shape)}, states "
            f"{list(state.shape)}, images {', '.join(str(len(one)) for one in images)}",
            "all have one length in LIBERO's files; leave the demonstration out",
        )
    solved = _read_solved(path, group, len(actions))
    frames = tuple(
        Frame(
            EnvObservation(
                {
                    name: turn_image(convention, one[step][::-1])
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
