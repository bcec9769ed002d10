"""Requests that say what is executed until their reply is there: the chunk continues that."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest
from serving import SEEN, policy

import wamkit
from wamkit.errors import WamkitError
from wamkit.policy.action_prefix import ActionPrefix
from wamkit.policy.observation import Observation
from wamkit.runtime import Robot, SimulatedClock, SimulatedDelay
from wamkit.serve.client import Client
from wamkit.serve.limits import Limits
from wamkit.serve.local import LocalPolicy
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.simulate.real_time import RealTimeRunner
from wamkit.testing.fixtures import spec_with, with_overrides
from wamkit.testing.parity import same_values


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy"), listener):
        yield address_of(listener)


def rest(seed: int, count: int = 5) -> Any:
    return np.random.default_rng(seed).normal(size=(count, 4)).astype(np.float32) / 4


def here(seed: int, prefix: Any) -> Any:
    seen = Observation({"front": SEEN["observation/front"]}, "pick up")
    return policy().act(seen, seed=seed, prefix=prefix).values[0].numpy()


def test_a_chunk_continues_the_prefix_of_its_request(address: Any) -> None:
    with Client(*address) as client:
        assert client.metadata["prefix"] == ["guided", "freeze"]
        for mode in client.metadata["prefix"]:
            prefix = {"values": rest(0), "delay": 2, "mode": mode}
            found = client.infer({**SEEN, "prefix": prefix})["actions"]
            same_values(found, here(0, ActionPrefix(rest(0), 2, mode=mode)))
            assert np.array_equal(found[:2], rest(0)[:2])
        whole = client.infer({**SEEN, "prefix": {"values": rest(0).tolist()}})["actions"]
        same_values(whole[:5], np.asarray(rest(0)).tolist(), 1e-5)
        none = client.infer({**SEEN, "prefix": {"values": rest(0, 0)}})["actions"]
        same_values(none, client.infer(SEEN)["actions"])


def test_prefixes_of_one_delay_share_a_batch_and_others_do_not() -> None:
    listener, together = bind("127.0.0.1", 0), Barrier(4)
    made, address = Server(policy(), limits=Limits(max_wait=0.5)), address_of(listener)
    made.batcher.expected = lambda: 4

    def ask(index: int) -> Any:
        delay = 2 if index < 3 else 1
        with Client(*address) as client:
            together.wait(60)
            return client.infer({**SEEN, "seed": index, "prefix": {"values": rest(index),
                                 "delay": delay}})  # fmt: skip

    with run_in_thread(made, listener), ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(ask, range(4)))
    for index, reply in enumerate(replies):
        prefix = ActionPrefix(rest(index), 2 if index < 3 else 1)
        same_values(reply["actions"], here(index, prefix))
    assert replies[3]["server_timing"]["batch"] == 1


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ([1.0], "'prefix' is a list of 1; expected a map with 'values'"),
        ({"delay": 2}, "expected a map with 'values'"),
        ({"values": rest(0), "speed": 1}, "'prefix' has 'speed'; expected values, delay, mode"),
        ({"values": rest(0), "mode": "trained"}, "takes no prefix in mode 'trained'"),
        ({"values": rest(0)[:, :3]}, r"'prefix' has shape \[5, 3\]; expected \[N, 4\]"),
        ({"values": rest(0) * np.nan}, "'values' of the prefix are not all finite"),
        ({"values": rest(0), "delay": 6}, "'delay' of a prefix of 5 actions is 6"),
        ({"values": rest(0), "delay": True}, "is True"),
        ({"values": rest(0, 9)}, "a prefix of 9 actions, and a chunk has 8"),
    ],
    ids=range(9),
)
def test_what_is_no_prefix_is_refused(address: Any, prefix: Any, message: str) -> None:
    with Client(*address) as client:
        with pytest.raises(WamkitError, match=message):
            client.infer({**SEEN, "prefix": prefix})
        assert client.infer(SEEN)["actions"].shape == (8, 4)


def test_a_policy_that_takes_no_prefix_says_so() -> None:
    names = {"backbone": "toy", "action_head": "regression", "paradigm": "single_pass"}
    local = LocalPolicy(wamkit.build(with_overrides(spec_with(**names))))
    assert local.metadata["prefix"] == []


def run(merge: str) -> Any:
    """A robot with a real policy, whose replies take 250 ms."""
    clock, made = SimulatedClock(), list[Any]()
    robot = Robot(
        LocalPolicy(policy(), "toy"),
        observe=lambda: {**SEEN, "seed": len(made)},
        execute=made.append,
        stop=lambda: None,
        merge=merge,
        clock=clock,
        delay=SimulatedDelay(0.25),
    )
    report = robot.run(24)
    return report, np.stack(made)


def test_a_robot_whose_policy_takes_prefixes_executes_what_it_said_it_would() -> None:
    report, made = run("replace")
    assert report.prefixes == report.requests - 1 > 2
    assert report.starved_steps == 0 and len(made) == 24
    assert set(report.delays[1:]) == {3} and report.late_chunks == 0


def test_late_chunks_of_an_evaluation_continue_what_was_executed() -> None:
    from test_real_time_runner import play, play_episodes, timing_of

    made = RealTimeRunner(
        policy(),
        {"front": "front"},
        4,
        {},
        lambda seed: SimulatedDelay(0.2, seed=seed),
        prefix="guided",
    )
    alone = play(made, 4, (1,))
    (one,) = play_episodes(made, 4, (1,))
    assert len(alone[0]) == 16 and timing_of(one).idle_steps == 0
    other = RealTimeRunner(policy(), {"front": "front"}, 4, {}, made.delay, prefix="guided")
    same_values(play(other, 4, (1, 2))[0], np.asarray(alone[0]).tolist(), 1e-4)
