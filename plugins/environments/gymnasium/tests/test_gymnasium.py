"""Registered environments through a mapping: keys, scales, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from wamkit_gymnasium import Gymnasium

from wamkit.errors import WamkitError
from wamkit.simulate import EnvPool, EnvWorker, Robot, choose
from wamkit.simulate.rollout import play
from wamkit.testing.environment import expect_environment

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("pygame")


class Nested(gymnasium.Env):  # type: ignore[misc, name-defined]
    """Images and numbers in dictionaries, as robot environments have them."""

    metadata = {"render_fps": 30}  # noqa: RUF012
    action_space = gymnasium.spaces.Box(np.array([0, -2]), np.array([4, 2]), dtype=np.float32)
    observation_space = gymnasium.spaces.Dict({})

    def _observation(self) -> dict[str, Any]:
        image = np.full((8, 10, 3), self.place * 10, np.uint8)
        return {"pixels": {"top": image}, "agent": {"pos": np.array([self.place, 0.5])}}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(1, 20))
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.last = action
        return self._observation(), 1.0, False, False, {"solved": action[0] > 3}


@pytest.fixture
def nested() -> Gymnasium:
    if "Nested-v0" not in gymnasium.registry:
        gymnasium.register("Nested-v0", Nested, disable_env_checker=True)
    return Gymnasium(
        id="Nested-v0",
        image_keys={"top": "pixels.top"},
        state="agent.pos",
        success="solved",
        unit_actions=True,
        size=(16, 20),
    )


def test_pendulum_keeps_the_contract_with_rendered_images() -> None:
    expect_environment(Gymnasium(size=(32, 32)))


def test_keys_lead_into_dictionaries_and_unit_actions_are_scaled(nested: Gymnasium) -> None:
    expect_environment(nested)
    host = EnvWorker(nested)
    robot = host.robot()
    assert robot.cameras == {"top": (16, 20)} and robot.control_hz == 30
    assert robot.low == (-1, -1) and len(robot.state) == 2
    host.reset(0)
    step = host.environment.step(np.array([0.5, -1], np.float32))
    assert host.environment._env.unwrapped.last.tolist() == [3, -2] and not step.success
    assert host.environment.step(np.array([1, 0], np.float32)).success


def test_what_cannot_be_is_refused_with_a_message(nested: Gymnasium) -> None:
    with pytest.raises(WamkitError, match="gymnasium makes no 'Nothing-v7'"):
        choose("gymnasium:Nothing-v7").build()
    with pytest.raises(WamkitError, match="expected a box of continuous values"):
        choose("gymnasium:CartPole-v1").build()
    with pytest.raises(WamkitError, match=r"has no .agent\.speed.; found pos"):
        nested.model_copy(update={"state": "agent.speed"}).build()
    with pytest.raises(WamkitError, match="has no scripted expert"):
        EnvWorker(Gymnasium(size=(16, 16))).play(0, "expert", 0, 0, False)


def test_simulators_run_in_processes_of_their_own() -> None:
    with EnvPool(Gymnasium(size=(16, 16)), 1) as workers:
        assert workers.robot().actions == ("action.0",)
        workers.ask(0, "reset", 3)
        apart = workers.answer(0)
        workers.ask(0, "play", 0, "expert", 0, 0, False)
        with pytest.raises(WamkitError, match="has no scripted expert"):
            workers.answer(0)
    here = EnvWorker(Gymnasium(size=(16, 16))).reset(3)
    assert np.array_equal(apart.state, here.state)
    assert np.array_equal(apart.images["render"], here.images["render"])


def test_a_process_that_dies_is_reported() -> None:
    with (
        pytest.raises(WamkitError, match="the process of environment gymnasium ended with code -"),
        EnvPool(Gymnasium(size=(16, 16)), 1) as workers,
    ):
        workers.robot()
        workers._processes[0].kill()
        workers.ask(0, "reset", 3)
        workers.answer(0)


def test_answers_that_nobody_waited_for_are_not_taken_for_others() -> None:
    with EnvPool(Gymnasium(size=(16, 16), max_steps=5), 2) as workers:
        next(play(workers, range(9), "random"))  # leaves episodes behind that are under way
        seeds = [rollout.seed for rollout in play(workers, range(100, 104), "random")]
        assert seeds == [100, 101, 102, 103]
        workers.ask(0, "play", 7, "random", 0.0, 0, False)
        workers.ask(0, "robot")
        assert isinstance(workers.answer(0), Robot)
