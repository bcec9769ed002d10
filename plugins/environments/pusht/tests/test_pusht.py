"""PushT as an environment, and the planner that solves it."""

from __future__ import annotations

import numpy as np
import pytest
from wamkit_pusht import PushT

from wamkit.simulate import EnvWorker
from wamkit.testing.environment import expect_environment

pytest.importorskip("gym_pusht")


def test_it_keeps_the_contract() -> None:
    expect_environment(PushT(size=32))


def test_the_planner_moves_the_t_to_its_place() -> None:
    host = EnvWorker(PushT(size=32, candidates=40, max_steps=60))
    rollout = host.play(1002, "expert", 0.0, 0, True)
    begin, end = rollout.frames[0].reward, max(frame.reward for frame in rollout.frames)
    assert begin < 0.5 < end
    places = np.stack([frame.action for frame in rollout.frames])
    assert places.min() >= 0 and places.max() <= 512
    # The physics engine orders contacts by addresses in memory: only the beginning is the same.
    again = host.play(1002, "expert", 0.0, 0, True)
    assert np.array_equal(rollout.frames[0].seen.state, again.frames[0].seen.state)
    assert max(frame.reward for frame in again.frames) > 0.5
    host.close()


def test_only_looking_draws() -> None:
    host = EnvWorker(PushT(size=32))
    host.reset(0)
    environment = host.environment
    drawn = []
    draw = environment._env._render
    environment._env._render = lambda: drawn.append(0) or draw()
    environment.step(np.array([256, 256], np.float32))
    assert not drawn
    environment.see()
    assert len(drawn) == 1
