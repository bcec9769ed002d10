"""PushT behind the contract of wamkit's environments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wamkit.simulate.environment import EnvObservation, Robot, Step
from wamkit.simulate.rendering import explain_rendering_errors, use_offscreen_rendering

from .planner import Planner

if TYPE_CHECKING:
    from . import PushT

use_offscreen_rendering()
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

with explain_rendering_errors("pusht"):
    from gym_pusht.envs.pusht import PushTEnv

TABLE = 512.0  # units of its height and width
CAMERA = "top"
INSTRUCTION = "push the T onto the green outline"


def table(size: int) -> Any:
    """The simulator; it renders only on observation."""
    made = PushTEnv(obs_type="state", observation_width=size, observation_height=size)
    made.reset(seed=0)
    return made


class PushTEnvironment:
    """`wamkit.simulate.Environment` of the task."""

    def __init__(self, config: PushT) -> None:
        self.config = config
        with explain_rendering_errors("pusht"):
            self._env = table(config.size)
        self.robot = Robot(
            cameras={CAMERA: (config.size, config.size)},
            state=("disk.x", "disk.y"),
            actions=("disk.x", "disk.y"),
            low=(0.0, 0.0),
            high=(TABLE, TABLE),
            control_hz=float(self._env.control_hz),
            kind="pusht",
        )

    def reset(self, seed: int) -> None:
        self._env.reset(seed=seed)

    def see(self) -> EnvObservation:
        image = np.ascontiguousarray(self._env._render())
        state = np.array(self._env.agent.position, np.float32)
        return EnvObservation({CAMERA: image}, state, INSTRUCTION)

    def step(self, action: NDArray[np.float32]) -> Step:
        _, reward, over, _, about = self._env.step(action.astype(float))
        return Step(float(reward), bool(about["is_success"]), bool(over))

    def expert(self, seed: int) -> Planner:
        return Planner(self._env, table(self.config.size), self.config.candidates, seed)

    def close(self) -> None:
        self._env.close()
