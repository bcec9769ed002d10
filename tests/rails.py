"""An environment with three tasks and two suites, as a plugin that tests install."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import EnvironmentConfig
from wamkit.config.spec import parse
from wamkit.policy.build import build
from wamkit.simulate.environment import EnvObservation, Robot, Step

WAMKIT_API = 1
SIZE = 16
PAUSE = "RAILS_PAUSE"
"""Environment variable: seconds that every action takes."""


class Rails(EnvironmentConfig):
    """A cart on a rail that must come to a goal."""

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

    name: Literal["rails"] = "rails"
    task: str = "near"
    max_steps: int = 20
    size: int = SIZE

    def build(self) -> RailsEnvironment:
        return RailsEnvironment(self)


class RailsEnvironment:
    """A place in [-1, 1], moved by the action; success near the goal."""

    def __init__(self, config: Rails) -> None:
        self.config, self.pause = config, float(os.environ.get(PAUSE, "0"))
        size = config.size, config.size
        self.robot = Robot({"side": size}, ("x", "goal"), ("dx",), (-0.25,), (0.25,), 10.0)

    def reset(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.x, self.goal = rng.uniform(-1, -0.5), rng.uniform(-0.4, 0.3)
        if self.config.task == "never":
            self.goal = 5.0

    def see(self) -> EnvObservation:
        image = np.zeros((self.config.size, self.config.size, 3), np.uint8)
        image[:, int((self.x + 1) / 2 * (self.config.size - 1)), 0] = 255
        state = np.array([self.x, self.goal], np.float32)
        return EnvObservation({"side": image}, state, self.config.subjects[self.config.task])

    def step(self, action: np.ndarray[Any, Any]) -> Step:
        time.sleep(self.pause)
        self.x = float(np.clip(self.x + action[0], -1, 1))
        return Step(-abs(self.x - self.goal), abs(self.x - self.goal) < 0.1)

    def expert(self, seed: int) -> RailsExpert:
        return RailsExpert()

    def close(self) -> None:
        pass


class RailsExpert:
    """Goes to the goal."""

    def act(self, seen: EnvObservation) -> np.ndarray[Any, Any]:
        return np.array([seen.state[1] - seen.state[0]])


@hookimpl
def register(add: Any) -> None:
    add(Rails)


def save_policy(folder: Path, **changes: Any) -> Path:
    """A policy for the rails with random weights, whose texts are as long as its instructions."""
    raw: dict[str, Any] = {
        "backbone": {"name": "toy", "depth": 1, "num_heads": 2, "head_dim": 8, "patch_size": 1},
        "vae": {"name": "pixel_shuffle", "strides": [1, 8, 8]},
        "text_encoder": {"name": "bytes", "max_length": 48},
        "action_head": {"name": "mot", "width": 16, "mlp_dim": 32, "state": "token"},
        "paradigm": {"name": "single_pass"},
        "actions": {"chunk_size": 4, "control_hz": 10, "groups": [{"name": "dx", "size": 1}]},
        "state": {"size": 2, "normalization": "none"},
        "cameras": {"views": [{"name": "side", "size": [SIZE, SIZE]}]},
        "video": {"num_frames": 2, "frame_stride": 4},
        "schedules": {"action": {"steps": 2}, "video": {"steps": 2}},
    }
    return build(parse({**raw, **changes}).fitted()).save(folder)


def install(folder: Path) -> None:
    """Write the metadata of a distribution that offers the plugin; `tests` must be importable."""
    info = folder / "rails-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rails\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[wamkit]\nrails = rails\n")
