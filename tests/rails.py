"""An environment with three tasks and two suites, as a plugin that tests install."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from small_specs import actions, small_spec

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig
from wamkit.policy.build import build
from wamkit.simulate.environment import EnvObservation, Robot, Step

WAMKIT_API = 1
SIZE = 16
PAUSE = "RAILS_PAUSE"
"""Environment variable: seconds that every action takes."""


class Rail(EnvironmentConfig):
    """A cart on a rail that must come to a goal."""

    name: Literal["rail"] = "rail"
    max_steps: int = 12
    size: int = SIZE
    broken: int | None = None
    """The expert of every so many-th seed goes the wrong way."""
    near: float = 0.1
    """How near to the goal is success."""
    stops_at: int | None = None
    """A seed at which Ctrl-C is pressed."""

    def build(self) -> RailEnvironment:
        return RailEnvironment(self)


class RailEnvironment:
    """A place in [-1, 1], moved by the action; success near the goal, which is drawn too."""

    goals: ClassVar[tuple[float, float]] = (0.3, 0.9)
    draws_goal: ClassVar[bool] = True
    instruction = "go to the goal"

    def __init__(self, config: Rail) -> None:
        self.config, self.seen, self.closed = config, 0, False
        size = config.size, config.size
        self.robot = Robot({"side": size}, ("x", "goal"), ("dx",), (-0.25,), (0.25,), 10.0)

    def reset(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.x, self.goal = rng.uniform(-1, -0.5), rng.uniform(*self.goals)

    def see(self) -> EnvObservation:
        self.seen += 1
        image = np.zeros((self.config.size, self.config.size, 3), np.uint8)
        for place, color in [(self.goal, 1)] * self.draws_goal + [(self.x, 0)]:
            image[:, int((place + 1) / 2 * (self.config.size - 1)), color] = 255
        state = np.array([self.x, self.goal], np.float32)
        return EnvObservation({"side": image}, state, self.instruction)

    def step(self, action: np.ndarray[Any, Any]) -> Step:
        if self.seed == self.config.stops_at:
            raise KeyboardInterrupt
        self.x = float(np.clip(self.x + action[0], -1, 1))
        return Step(-abs(self.x - self.goal), abs(self.x - self.goal) < self.config.near)

    def expert(self, seed: int) -> RailExpert:
        return RailExpert(self.config.broken is not None and seed % self.config.broken == 0)

    def close(self) -> None:
        self.closed = True


class RailExpert:
    """Goes to the goal, or away from it."""

    def __init__(self, lost: bool) -> None:
        self.sign = -1 if lost else 1

    def act(self, seen: EnvObservation) -> np.ndarray[Any, Any]:
        return np.array([self.sign * (seen.state[1] - seen.state[0])])


class Rails(Rail):
    """The rail with three tasks."""

    subjects: ClassVar[Mapping[str, str]] = {
        "near": "go to the goal",
        "far": "go to the goal that is far away",
        "never": "stay away from the goal",
    }
    suites: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "rails": ("near", "far", "never"),
        "one_rail": ("near",),
    }
    suite_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = {"rails": {"max_steps": 10}}

    name: Literal["rails"] = "rails"  # type: ignore[assignment]
    task: str = "near"
    max_steps: int = 20

    def build(self) -> RailsEnvironment:
        return RailsEnvironment(self)


class RailsEnvironment(RailEnvironment):
    """The rail with a nearer goal that is not drawn, and actions that may take their time."""

    goals = (-0.4, 0.3)
    draws_goal = False

    def __init__(self, config: Rails) -> None:
        super().__init__(config)
        self.task, self.pause = config.task, float(os.environ.get(PAUSE, "0"))
        self.instruction = config.subjects[config.task]

    def reset(self, seed: int) -> None:
        super().reset(seed)
        if self.task == "never":
            self.goal = 5.0

    def step(self, action: np.ndarray[Any, Any]) -> Step:
        time.sleep(self.pause)
        return super().step(action)


@hookimpl
def register(add: Any) -> None:
    add(Rails)


def save_policy(folder: Path, **changes: Any) -> Path:
    """A policy for the rails with random weights, whose texts are as long as its instructions."""
    tables: dict[str, Any] = {
        "text_encoder": {"name": "bytes", "max_length": 48},
        "actions": actions("dx", 1),
        "video": {"num_frames": 2, "frame_stride": 4},
    }
    return build(small_spec(SIZE, **{**tables, **changes})).save(folder)


def install(folder: Path) -> None:
    """Write the metadata of a distribution that offers the plugin; `tests` must be importable."""
    info = folder / "rails-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rails\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wamkit]\nrails = rails\n")
