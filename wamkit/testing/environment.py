"""The contract of environments, for the tests of their authors."""

from __future__ import annotations

import numpy as np

from ..config.parts import EnvironmentConfig
from ..simulate.environment import Environment, EnvObservation, Robot


def expect_environment(config: EnvironmentConfig, steps: int = 3) -> None:
    """Build an environment and try it. Raises AssertionError where it breaks the contract."""
    environment = config.build()
    assert isinstance(environment, Environment)
    try:
        robot = environment.robot
        count = len(robot.actions)
        assert count == len(robot.low) == len(robot.high) > 0 and robot.control_hz > 0
        assert all(low < high for low, high in zip(robot.low, robot.high, strict=True))
        rng = np.random.default_rng(0)
        actions = [rng.uniform(robot.low, robot.high).astype(np.float32) for _ in range(steps)]
        first = _run_episode(environment, 3, actions)
        other = _run_episode(environment, 4, actions)
        again = _run_episode(environment, 3, actions)
        for seen in first + other:
            _expect_seen(seen, robot)
        for one, two in zip(first, again, strict=True):
            assert np.array_equal(one.state, two.state), "a seed does not decide the state"
            for name, image in one.images.items():
                assert np.array_equal(image, two.images[name]), "a seed does not decide images"
        assert any(
            not np.array_equal(one.images[name], two.images[name])
            for one, two in zip(first, other, strict=True)
            for name in robot.cameras
        ), "two seeds look alike"
    finally:
        environment.close()


def _run_episode(
    environment: Environment, seed: int, actions: list[np.ndarray]
) -> list[EnvObservation]:
    """Observations of an episode with these actions."""
    environment.reset(seed)
    seen = [environment.see()]
    for action in actions:
        step = environment.step(action)
        assert np.isfinite(step.reward)
        seen.append(environment.see())
    return seen


def _expect_seen(seen: EnvObservation, robot: Robot) -> None:
    assert {name: p.shape for name, p in seen.images.items()} == {
        name: (*size, 3) for name, size in robot.cameras.items()
    }
    assert all(image.dtype == np.uint8 for image in seen.images.values())
    assert seen.state.shape == (len(robot.state),) and seen.state.dtype == np.float32
    assert np.isfinite(seen.state).all() and seen.instruction.strip()
