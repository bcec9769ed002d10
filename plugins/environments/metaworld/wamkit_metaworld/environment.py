"""A Meta-World task that a seed decides, rendered fast, with its scripted expert.

No shadows are drawn and no edges smoothed: without a graphics card that is ten times faster.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wamkit.simulate.environment import EnvObservation, Robot, Step
from wamkit.simulate.rendering import explain_rendering_errors, prepare_mujoco

if TYPE_CHECKING:
    from . import MetaWorld

prepare_mujoco()

with warnings.catch_warnings(), explain_rendering_errors("metaworld"):
    warnings.simplefilter("ignore")
    import metaworld
    import mujoco
    from metaworld.policies import ENV_POLICY_MAP

NEARER = (0.75, 0.075, 0.7)
"""Where corner2 stands in most work on images of Meta-World (Seo et al., arXiv 2206.14244)."""
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
LEFT_OUT = ("SHADOW", "REFLECTION", "SKYBOX", "HAZE")


class Script:
    """The scripted expert of a task, with privileged object positions."""

    def __init__(self, environment: MetaWorldEnvironment) -> None:
        self._environment = environment
        self._policy: Any = ENV_POLICY_MAP[environment.config.task]()

    def act(self, seen: EnvObservation) -> NDArray[Any]:
        """The next action [4]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return np.asarray(self._policy.get_action(self._environment.full_state), np.float32)


class MetaWorldEnvironment:
    """`wamkit.simulate.Environment` of one task."""

    def __init__(self, config: MetaWorld) -> None:
        self.config = config
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._env: Any = metaworld.ALL_V3_ENVIRONMENTS_GOAL_OBSERVABLE[
                f"{config.task}-goal-observable"
            ](seed=0)
        self._env._freeze_rand_vec = False  # every reset draws a scene ...
        self._env.seeded_rand_vec = True  # ... with the environment's own generator
        model = self._env.model
        model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        model.cam_pos[model.camera("corner2").id] = NEARER
        self._renderer: Any = None  # made when it is needed: not everyone looks
        self.full_state = np.zeros(39)  # the last observation, which knows more than is seen
        self.robot = Robot(
            cameras={config.camera: (config.size, config.size)},
            state=("hand.x", "hand.y", "hand.z", "gripper"),
            actions=("hand.x", "hand.y", "hand.z", "gripper"),
            low=(-1.0,) * 4,
            high=(1.0,) * 4,
            control_hz=round(1 / self._env.dt, 6),
            kind="sawyer",
        )

    def reset(self, seed: int) -> None:
        self._env.seed(seed)
        self.full_state, _ = self._env.reset()
        # The goal was moved behind the last computation of places: the first image would show that
        # of the episode before. Forces stay as they are.
        for compute in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight):
            compute(self._env.model, self._env.data)

    def see(self) -> EnvObservation:
        if self._renderer is None:
            with explain_rendering_errors(f"metaworld:{self.config.task}"):
                self._renderer = self._make()
        self._renderer.update_scene(self._env.data, camera=self.config.camera)
        image = self._renderer.render()
        if self.config.camera in UPSIDE_DOWN:
            image = image[::-1, ::-1]
        state = self.full_state[:4].astype(np.float32)
        name: str = self.config.camera
        return EnvObservation(
            {name: np.ascontiguousarray(image)}, state, self.config.task_instruction
        )

    def step(self, action: NDArray[np.float32]) -> Step:
        self.full_state, reward, over, late, about = self._env.step(action)
        return Step(float(reward), bool(about["success"]), bool(over or late))

    def expert(self, seed: int) -> Script:
        return Script(self)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self._env.close()

    def _make(self) -> Any:
        """The renderer, without what costs time and shows nothing."""
        made: Any = mujoco.Renderer(self._env.model, self.config.size, self.config.size)
        for flag in LEFT_OUT:
            made.scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        return made
