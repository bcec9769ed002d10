"""The interface of a simulator: seeded episodes, observations, rewards and success.

Letters: A size of an action, P size of a state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..config.parts import EnvironmentConfig
from ..config.registry import registry
from ..config.spec import override, parse_part
from ..errors import WamkitError
from ..files.install import install_hint


@dataclass(frozen=True)
class Robot:
    """Action, state and camera specification of the robot."""

    cameras: Mapping[str, tuple[int, int]]  # camera -> height, width
    state: tuple[str, ...]  # P names; none if there is no state
    actions: tuple[str, ...]  # A names
    low: tuple[float, ...]  # [A] the smallest action, in physical units
    high: tuple[float, ...]  # [A]
    control_hz: float  # actions a second
    kind: str = "simulated"  # of robot, as data sets note it

    def clip_action(self, action: NDArray[Any]) -> NDArray[np.float32]:
        """Clip an action [A] to the limits. Raises WamkitError if a value is not finite."""
        if not np.isfinite(action).all():
            place = int(np.flatnonzero(~np.isfinite(action))[0])
            raise WamkitError(
                f"an action is not finite: {np.asarray(action)[place]} for {self.actions[place]!r}",
                "look at what decides it: the policy, or the environment's expert",
            )
        return np.clip(np.asarray(action, np.float32), self.low, self.high).astype(np.float32)


@dataclass(frozen=True)
class EnvObservation:
    """One observation of the robot."""

    images: Mapping[str, NDArray[np.uint8]]  # camera -> [height, width, 3]
    state: NDArray[np.float32]  # [P] physical units
    instruction: str


@dataclass(frozen=True)
class Step:
    """Result of one action."""

    reward: float
    success: bool  # the task is solved at this moment
    over: bool = False  # the episode cannot go on


class Expert(Protocol):
    """A script that solves the task; it may use privileged information.

    One that has `reads_images = False` needs no observation: unless frames are kept, it is given
    that of the beginning each time, and no image is rendered.
    """

    def act(self, seen: EnvObservation) -> NDArray[Any]:
        """The next action [A]."""


@runtime_checkable
class Environment(Protocol):
    """One simulator with a task in it.

    Looking is apart from stepping, because images often cost more than physics, and between the
    decisions of a policy no image is rendered.
    """

    robot: Robot

    def reset(self, seed: int) -> None:
        """Begin an episode that the 32-bit seed alone determines."""

    def see(self) -> EnvObservation:
        """Return the current observation."""

    def step(self, action: NDArray[np.float32]) -> Step:
        """One action [A] within the limits."""

    def expert(self, seed: int) -> Expert | None:
        """Return a script for the running episode, or None."""

    def close(self) -> None:
        """Free the simulator."""


def choose(text: str, overrides: Iterable[str] = (), conventions: str = "") -> EnvironmentConfig:
    """The configuration that `NAME` or `NAME:TASK` means, with `KEY=VALUE` overrides.

    `conventions` are those of a policy: they are set in an environment that has several, unless
    `overrides` do. Raises WamkitError if there is no such environment or task, if an override names
    another one, or if a module is missing.
    """
    name, colon, subject = text.partition(":")
    owned = ":".join(text.split(":")[:2])
    if name not in registry().names("environment") and owned in registry().names("environment"):
        name, (colon, subject) = owned, text.removeprefix(owned).partition(":")[1:]
    raw: dict[str, Any] = {"name": name}
    cls: Any = registry().get("environment", name)
    if colon:
        if cls.subject is None:
            raise WamkitError(f"{name} has no tasks to choose from", f"leave out ':{subject}'")
        raw[cls.subject] = subject
    overrides = list(overrides)
    typed = [text.partition("=")[0].strip() for text in overrides]
    if conventions and "conventions" in cls.model_fields and "conventions" not in typed:
        raw["conventions"] = conventions
    for key, text in zip(typed, overrides, strict=True):
        if key in raw:  # what the name says already
            raise WamkitError(
                f"{key} is set twice: by {text!r}, and by an override",
                f"write it once: {name}{f':{cls.subject.upper()}' if cls.subject else ''}",
            )
    config: Any = parse_part("environment", override(raw, overrides))
    if missing := [module for module in cls.requires if find_spec(module) is None]:
        raise WamkitError(
            f"environment {name} needs {', '.join(missing)}, which is not installed",
            install_hint(modules=missing),
        )
    assert isinstance(config, EnvironmentConfig)
    return config
