"""How a robot names, turns and measures what a policy takes and gives: one TOML file a robot.

    control_hz = 15
    [cameras.front]                       # a view of the policy
    key = "observation/exterior_image_1_left"
    [[state]]
    key = "observation/joint_position"
    slice = [0, 7]
    [[actions]]
    key = "gripper_position"
    slice = [7, 8]
    range = [0, 1]

Keys of nested maps are joined by `/`. Nothing is guessed: a key of a request that the file does not
name, and one that it names and that is not there, are errors.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from ..config.mistakes import explain_mistakes
from ..config.spec import PolicySpec
from ..config.values import Table
from ..errors import SpecError, WamkitError, did_you_mean
from ..files.documents import read_table
from ..files.paths import expand_home
from .bound_robot import BoundRobot
from .robot_vectors import ValueMap, VectorMap

FOLDER = Path(__file__).parent / "robots"
QUANTITIES = {
    word: quantity
    for quantity, names in {
        "positions": ("position", "positions", "pos", "qpos"),
        "velocities": ("velocity", "velocities", "vel", "qvel"),
    }.items()
    for word in names
}
"""Word in the name of an action -> what the action is."""


class CameraMap(Table):
    """Where the images of one view are in a request."""

    key: str
    """Key of the request."""
    layout: Literal["HWC", "CHW"] = "HWC"
    """Order of the axes height, width and color."""
    rotation: Literal[0, 90, 180, 270] = 0
    """Degrees by which the camera's image is turned counterclockwise for the policy."""


class RobotMap(Table):
    """The keys of one robot."""

    name: str = ""
    """What it is called in messages."""
    control_hz: float | None = Field(None, gt=0)
    """Actions a second that the robot executes; a policy of another rate is refused."""
    prompt: str = "prompt"
    """Key of the instruction."""
    instruction: str | None = Field(None, min_length=1)
    """The instruction of requests without one; None refuses them."""
    cameras: dict[str, CameraMap]
    """View of the policy -> where its images are. A policy may have fewer of them."""
    state: tuple[ValueMap, ...] = ()
    """The state, in the order of its keys."""
    actions: tuple[ValueMap, ...]
    """The actions, in the order in which the robot takes them."""
    ignore: tuple[str, ...] = ()
    """Keys that clients send and that no policy reads."""

    def bind(self, spec: PolicySpec, renamed: Mapping[str, str] | None = None) -> BoundRobot:
        """The map of one policy; `renamed`: view -> key of one of the robot's cameras.

        Raises WamkitError if the policy has other views, values or rates than the map.
        """
        name = self.name or "the robot"
        views = [view.name for view in spec.cameras.views]
        by_key = {camera.key: camera for camera in self.cameras.values()}
        faults = [
            f"no camera for view {v!r}" for v in views if v not in {*self.cameras, *(renamed or {})}
        ]
        faults += [f"no camera with key {k!r}" for k in (renamed or {}).values() if k not in by_key]
        faults += [f"the policy has no view {v!r}" for v in renamed or {} if v not in views]
        rate = spec.actions.control_hz
        if self.control_hz is not None and self.control_hz != rate:
            faults.append(f"the robot runs at {self.control_hz:g} Hz and the policy at {rate:g} Hz")
        faults += self._other_quantities(spec)
        vectors: dict[str, VectorMap] = {}
        wanted = {"state": (self.state if spec.state.size else (), spec.state.size)}
        wanted["action"] = (self.actions, len(spec.actions.executed))
        hints = []
        for what, (fields, size) in wanted.items():
            try:
                vectors[what] = VectorMap(fields, size, what)
            except WamkitError as error:
                faults.append(error.what)
                hints.append(error.hint)
        if faults:
            copied = f"--robot FILE.toml, a copy of one in {FOLDER} with what differs"
            keys = f"--camera-map VIEW=KEY with one of {', '.join(by_key)}, or {copied}"
            raise WamkitError(
                f"{name} does not fit the policy: {'; '.join(faults)}",
                hints[0] if len(hints) == len(faults) == 1 else keys,
            )
        cameras = {
            v: by_key[renamed[v]] if renamed and v in renamed else self.cameras[v] for v in views
        }
        unread = {camera.key for camera in self.cameras.values()} | {*self.ignore}
        unread |= {field.key for field in self.state}
        images = {view: (c.key, c.layout, c.rotation) for view, c in cameras.items()}
        return BoundRobot(
            name,
            self.prompt,
            images,
            vectors["state"],
            vectors["action"],
            frozenset(unread),
            self.instruction,
        )

    def _other_quantities(self, spec: PolicySpec) -> list[str]:
        """Faults: positions of the policy that the robot executes as velocities, or the reverse."""
        groups = [
            group
            for group in spec.actions.groups
            if group.kind != "state"
            for _ in range(group.size)
        ]
        faults = []
        for field in self.actions:
            wanted = _quantity(field.key)
            for group in dict.fromkeys(groups[slice(*field.slice)]):
                found = "positions" if group.kind == "relative" else _quantity(group.name)
                if wanted and found and wanted != found and group.name != field.key:
                    faults.append(
                        f"the robot executes {wanted} ({field.key!r}) and {group.name!r} of the "
                        f"policy is {found}"
                    )
        return faults


def _quantity(name: str) -> str:
    """A value of `QUANTITIES`, or empty where the name of an action leaves it open."""
    found = {QUANTITIES[word] for word in re.split("[^a-z]+", name.lower()) if word in QUANTITIES}
    return found.pop() if len(found) == 1 else ""


def known_robots() -> list[str]:
    """Names of the maps that come with wamkit."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read_robot(name: str) -> RobotMap:
    """A map by the name of one that comes with wamkit, or from a TOML file.

    Raises WamkitError with every mistake in it.
    """
    file = expand_home(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not name.endswith(".toml") and name not in known_robots():
        known = known_robots()
        hint = did_you_mean(name, known, f"one of {', '.join(known)}, or a file: FILE.toml")
        raise WamkitError(f"no robot is called {name!r}", hint)
    raw = {"name": file.stem, **read_table(file, "robot file", f"a copy of one in {FOLDER}")}
    try:
        return RobotMap.model_validate(raw)
    except ValidationError as error:
        raise SpecError(explain_mistakes(error, "", RobotMap), str(file)) from None


def plain_robot(
    spec: PolicySpec, image: str, state: str, renamed: Mapping[str, str], prompt: str = "prompt"
) -> RobotMap:
    """The map of a protocol without a robot file: `image` with `{view}` in it, and `state`.

    Actions have the names of the policy's groups.
    """
    views = [view.name for view in spec.cameras.views]
    cameras = {view: CameraMap(key=renamed.get(view, image.format(view=view))) for view in views}
    actions, start = [], 0
    for group in spec.actions.groups:
        if group.kind != "state":
            actions.append(ValueMap(key=group.name, slice=(start, start + group.size)))
            start += group.size
    size = spec.state.size
    states = (ValueMap(key=state, slice=(0, size)),) if size else ()
    return RobotMap(
        name="the client", prompt=prompt, cameras=cameras, state=states, actions=tuple(actions)
    )
