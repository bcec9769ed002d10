"""The memory of a policy takes what was executed: robots and simulators clip what was planned."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import rails
import torch
from small_specs import actions, small_spec

from wamkit.errors import WamkitError
from wamkit.policy.build import build
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.runtime import Robot, SimulatedClock, SimulatedDelay
from wamkit.serve.local import LocalPolicy
from wamkit.serve.remote_actor import RemoteActor
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.simulate import EnvPool
from wamkit.simulate.episodes import Rollout
from wamkit.simulate.policy_runner import PolicyRunner, RunningEpisode
from wamkit.simulate.real_time import RealTimeRunner
from wamkit.simulate.rollout import evaluate
from wamkit.simulate.suite.actor import PolicyActor
from wamkit.simulate.suite.plan import PlannedEpisode, Task
from wamkit.simulate.suite.run import SuiteRun
from wamkit.testing.parity import same_values

SEED, CHUNKS, SIZE = 3, 3, 4
STEPS = CHUNKS * SIZE


@pytest.fixture(scope="module")
def policy() -> Policy:
    """An autoregressive policy for the rail, whose limits many of its actions are beyond."""
    return build(
        small_spec(
            rails.SIZE,
            paradigm={"name": "autoregressive"},
            actions=actions("dx", 1),
            video={"num_frames": 3, "frame_stride": 2},
        )
    )


class Narrow(rails.Rail):
    """A rail whose goal cannot be reached, and whose robot clips actions to `limit`."""

    max_steps: int = STEPS
    near: float = -1.0
    limit: float = 0.25

    def build(self) -> rails.RailEnvironment:
        made = rails.RailEnvironment(self)
        made.robot = replace(made.robot, low=(-self.limit,), high=(self.limit,))
        return made


def played(runner: PolicyRunner, **settings: Any) -> Rollout:
    with EnvPool(Narrow(**settings), 1, apart=False) as workers:
        (found,) = evaluate(workers, [SEED], runner, {}, keep=True)
    return found


def planned(found: Rollout) -> Any:
    """What the policy planned for each step [T, 1]."""
    return np.stack([frame.action for frame in found.frames])


def replayed(policy: Policy, found: Rollout, clip: bool, idle: int = 0) -> Any:
    """What a session plans that is given the clipped actions, or none, with the same images.

    `idle`: steps in which the robot stood still before each chunk but the first.
    """
    session, made = policy.session(), list[Any]()
    seen = [frame.seen for frame in found.frames]
    for number in range(CHUNKS):
        at = number * (SIZE + idle) - idle * (number > 0)
        looks = [seen[at - 2 * back] for back in reversed(range(session.num_images))]
        clips = torch.from_numpy(np.stack([look.images["side"] for look in looks]))
        past = torch.from_numpy(made[-1]).clip(-0.25, 0.25)[None] if number and clip else None
        state = torch.from_numpy(looks[-1].state)[None]
        observation = Observation(
            {"side": clips.movedim(-1, 1)[None]}, looks[-1].instruction, state
        )
        draw = RunningEpisode(SEED, {}, decisions=number).chunk_seed
        made.append(session.act(observation, past, seed=draw).values[0].numpy())
    return np.stack(made)


def chunks(plan: Any, idle: int = 0) -> Any:
    """Each chunk of a plan [CHUNKS, SIZE, 1], without the steps before it."""
    starts = [number * (SIZE + idle) for number in range(CHUNKS)]
    return np.stack([plan[start : start + SIZE] for start in starts])


def test_a_simulator_tells_the_memory_what_it_clipped(policy: Policy) -> None:
    found = played(PolicyRunner(policy, {"side": "side"}, SIZE, {}))
    plan = chunks(planned(found))
    assert np.abs(plan).max() > 0.25
    assert np.array_equal(plan, replayed(policy, found, clip=True))
    assert not np.array_equal(plan, replayed(policy, found, clip=False))


def test_where_nothing_is_clipped_the_memory_is_that_of_the_plan(policy: Policy) -> None:
    found = played(PolicyRunner(policy, {"side": "side"}, SIZE, {}), limit=100.0)
    assert np.array_equal(chunks(planned(found)), replayed(policy, found, clip=False))


def test_steps_in_which_a_robot_stands_still_are_of_no_chunk(policy: Policy) -> None:
    def delay(seed: int) -> SimulatedDelay:
        return SimulatedDelay(0.3, seed=seed)

    runner = RealTimeRunner(policy, {"side": "side"}, SIZE, {}, delay)
    found = played(runner, max_steps=STEPS + 2 * 3)
    assert found.timing is not None and found.timing.idle_steps == 2 * 3
    plan = chunks(planned(found), idle=3)
    assert np.array_equal(plan, replayed(policy, found, clip=True, idle=3))


def in_a_suite(actor: Any) -> Rollout:
    config = Narrow()
    with EnvPool(config, 1, apart=False) as workers:
        episode = PlannedEpisode(Task(0, "", config), 0, SEED)
        (found,) = SuiteRun(workers, [[episode]], workers.robot(), films=True).evaluate(actor)
    return found.rollout


def test_a_suite_and_a_policy_behind_a_socket_do_the_same(policy: Policy) -> None:
    runner = PolicyRunner(policy, {"side": "side"}, SIZE, {})
    expected = planned(played(runner))
    assert np.array_equal(planned(in_a_suite(PolicyActor(runner, ["go to the goal"]))), expected)
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy), listener):
        address = "ws://{}:{}".format(*address_of(listener))
        with RemoteActor(address, Narrow().build().robot, {}, None, 1) as actor:
            found = planned(in_a_suite(actor))
    # Of a server, texts are not padded to the longest one of the suite.
    same_values(found, expected.tolist(), 1e-5)


class Arm:
    """A robot that clips each action, and says so in the way of `answer`."""

    def __init__(self, policy: Any, answer: Any) -> None:
        self.planned, self.answer = list[Any](), answer
        self.robot = Robot(
            policy,
            observe=self.observe,
            execute=self.execute,
            stop=lambda: None,
            clock=SimulatedClock(),
            delay=SimulatedDelay(0.25),
        )

    def observe(self) -> dict[str, Any]:
        image = np.full((rails.SIZE, rails.SIZE, 3), 9 * len(self.planned), np.uint8)
        state = np.array([len(self.planned), 1], np.float32)
        return {"observation/side": image, "observation/state": state, "prompt": "go", "seed": 1}

    def execute(self, action: Any) -> Any:
        self.planned.append(action)
        return self.answer(action)


class Recorder(LocalPolicy):
    """A policy that keeps what it gets as executed."""

    reported: list[Any]

    def infer(self, observation: Any) -> dict[str, Any]:
        self.reported = [*getattr(self, "reported", []), observation.get("executed")]
        return super().infer(observation)


def test_a_robot_tells_the_memory_what_execute_returns(policy: Policy) -> None:
    plans, reported = [], []
    for answer in (lambda a: a.clip(-0.25, 0.25).tolist(), lambda a: None, lambda a: a):
        arm = Arm(made := Recorder(policy), answer)
        for _ in range(2):  # each run is an episode of its own
            arm.planned.clear()
            arm.robot.run(STEPS)
        plans.append(np.stack(arm.planned))
        reported.append(made.reported)
    clipped = np.clip(plans[0], -0.25, 0.25).reshape(CHUNKS, SIZE, 1)
    assert np.abs(plans[0]).max() > 0.25 and len(reported[0]) == 2 * CHUNKS
    assert reported[0][0] is None and reported[0][CHUNKS] is None
    assert np.array_equal(reported[0][1:CHUNKS], clipped[:-1])
    assert reported[1] == reported[2] == [None] * 2 * CHUNKS
    assert np.array_equal(plans[1], plans[2]) and not np.array_equal(plans[0], plans[1])
    assert np.array_equal(plans[0][:SIZE], plans[1][:SIZE])


@pytest.mark.parametrize("answer", [True, [0.0, 0.0], {"dx": 0.1}, [float("nan")]])
def test_what_is_no_action_is_refused_where_it_would_be_remembered(
    policy: Policy, answer: Any
) -> None:
    with pytest.raises(WamkitError, match=r"execute returned .* expected the action") as refused:
        Arm(LocalPolicy(policy), lambda action: answer).robot.run(STEPS)
    assert "or None" in str(refused.value.hint)
