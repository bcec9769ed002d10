"""Meta-World as an environment: decided by a seed, solved by its experts, seen the right way up.

It renders in processes of its own alone: Mesa's software renderer and what torch imports of triton
both bring an LLVM, and a process with both may crash.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing import get_context

import numpy as np
import pytest
from wamkit_metaworld import MetaWorld
from wamkit_metaworld.tasks import TASKS

from wamkit.cli._env_options import complete_environment
from wamkit.simulate import EnvPool
from wamkit.testing.environment import expect_environment

# Not importorskip: who imports mujoco first decides how it renders.
pytestmark = pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is not installed")


@pytest.mark.parametrize("task", ["reach-v3", "push-v3"])
def test_it_keeps_the_contract(task: str) -> None:
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        pool.submit(expect_environment, MetaWorld(task=task, size=64)).result()


def test_the_expert_presses_the_button_in_spite_of_noise() -> None:
    with EnvPool(MetaWorld(size=32), 1) as workers:
        robot = workers.robot()
        workers.ask(0, "play", 0, "expert", 0.1, 4, True)
        rollout = workers.answer(0)
    assert rollout.success and rollout.steps < 120
    assert rollout.instruction == "press the button from above"
    assert robot.control_hz == 80 and robot.cameras == {"corner2": (32, 32)}
    hand = np.stack([frame.seen.state for frame in rollout.frames])
    assert np.ptp(hand[:, 2]) > 0.02  # the hand goes up and down
    # The arm is red, comes from the left and from above; the table is below.
    first = rollout.frames[0].seen.images["corner2"].astype(int)
    red = (first[..., 0] - first[..., 1]) > 80
    assert red[:, :16].sum() > 2 * red[:, 16:].sum() and first[-8:].sum() > first[:8].sum()


def test_every_task_has_its_own_expert_and_instruction() -> None:
    import metaworld
    from metaworld.policies import ENV_POLICY_MAP

    assert set(TASKS) == set(metaworld.ALL_V3_ENVIRONMENTS) == set(ENV_POLICY_MAP)
    assert len(set(TASKS.values())) == len(TASKS) == 50


def test_its_tasks_are_listed_and_completed() -> None:
    offered = complete_environment("metaworld:button-press-t")
    assert offered == [
        "metaworld:button-press-topdown-v3",
        "metaworld:button-press-topdown-wall-v3",
    ]
    assert len(MetaWorld.subjects) == 50 and dict(MetaWorld.subjects) == TASKS
