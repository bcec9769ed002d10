"""A robot that executes while its policy computes: alignment, delays, and that it ends up still."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from serving import policy

from wamkit.errors import BusyError, WamkitError
from wamkit.runtime import (
    LatencyWindow,
    Pacer,
    Robot,
    SimulatedClock,
    SimulatedDelay,
    append,
    delay_steps,
    replace,
    weighted,
)
from wamkit.runtime.latency import percentile
from wamkit.runtime.merging import jump
from wamkit.serve.client import Client
from wamkit.serve.local import LocalPolicy
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.parity import same_values

HZ, SIZE = 10.0, 8


def actions(*values: float) -> Any:
    return np.array(values, np.float32)[:, None]


def test_replace_drops_the_plan_and_the_moments_that_have_passed() -> None:
    rest, chunk = actions(3, 4, 5), actions(10, 11, 12, 13)
    assert replace(rest, chunk, 1).ravel().tolist() == [11, 12, 13]
    assert replace(rest, chunk, 4) is rest


def test_append_executes_the_plan_to_its_end() -> None:
    rest, chunk = actions(3, 4), actions(10, 11, 12, 13, 14)
    assert append(rest, chunk, 1).ravel().tolist() == [3, 4, 13, 14]
    assert append(rest, chunk, 4).ravel().tolist() == [3, 4]
    assert append(actions(), chunk, 3).ravel().tolist() == [13, 14]


def test_weighted_mixes_where_both_plan_an_action() -> None:
    rest, chunk = actions(0, 0, 0), actions(9, 10, 20)
    same_values(weighted(rest, chunk, 1).ravel(), [7, 14, 0], 1e-6)
    same_values(weighted(actions(0), chunk, 1, weight=0.5).ravel(), [5, 20], 1e-6)
    same_values(weighted(rest, chunk, 3).ravel(), [0, 0, 0], 1e-6, scale=1.0)


def test_a_jump_is_the_largest_change_of_the_next_action() -> None:
    assert jump(np.array([[1.0, 2]]), np.array([[1.5, -1]])) == 3
    assert jump(np.zeros((0, 2)), np.ones((1, 2))) == jump(np.ones((1, 2)), np.zeros((0, 2))) == 0


def test_a_latency_is_as_many_steps_as_begin_before_the_reply_is_used() -> None:
    assert [delay_steps(s, 10) for s in (0, 0.01, 0.1, 0.101, 0.25, 0.3)] == [0, 1, 1, 2, 3, 3]


def test_the_expected_latency_is_a_percentile_of_the_latest_ones() -> None:
    window = LatencyWindow(size=20, share=95)
    assert window.expected == 0 and window.steps(10) == 0
    for n in range(1, 31):
        window.add(n / 100)
    assert len(window) == 20 and window.expected == 0.29 and window.steps(10) == 3
    assert percentile([3, 1, 2], 50) == 2 and percentile([3, 1, 2], 100) == 3
    for size, share in ((0, 95), (5, 0), (5, 101)):
        with pytest.raises(WamkitError, match="a window of"):
            LatencyWindow(size, share)


def test_a_simulated_delay_is_constant_drawn_or_spiky_and_the_same_for_a_seed() -> None:
    assert {SimulatedDelay(0.12).draw() for _ in range(3)} == {0.12}
    one, two = (SimulatedDelay((0.1, 0.2), spike=1.0, every=4, seed=7) for _ in range(2))
    drawn = [one.draw() for _ in range(400)]
    assert drawn == [two.draw() for _ in range(400)]
    usual = [seconds for seconds in drawn if seconds != 1.0]
    assert 60 < 400 - len(usual) < 140 and 0.1 <= min(usual) < 0.11 < 0.19 < max(usual) <= 0.2
    for wrong in ((0.2, 0.1), -1.0, float("inf")):
        with pytest.raises(WamkitError, match="a delay of"):
            SimulatedDelay(wrong)


def test_a_step_that_takes_too_long_is_left_out_and_not_made_up_for() -> None:
    clock = SimulatedClock()
    pacer, begun = Pacer(10, clock), []
    for work in (0.0, 0.05, 0.25, 0.0, 0.0):
        pacer.wait()
        begun.append(round(clock.now(), 6))
        clock.time += work
    assert begun == [0.0, 0.1, 0.2, 0.45, 0.5] and pacer.overruns == 1
    assert pacer.jitter_ms()["max"] == pytest.approx(50) and pacer.jitter_ms()["p50"] < 1e-6


class Plan:
    """A policy whose action for step k of the robot is k, or drifts with each chunk."""

    def __init__(self, drift: float = 0.0, prefix: tuple[str, ...] = (), learned: int = 0) -> None:
        self.metadata: dict[str, Any] = {
            "stateful": False,
            "control_hz": HZ,
            "chunk_size": SIZE,
            "actions": ["x"],
            "prefix": prefix,
            "max_delay": learned,
        }
        self.drift, self.requests, self.faults = drift, list[Any](), list[Exception]()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        if self.faults:
            raise self.faults.pop(0)
        self.requests.append(observation)
        values = observation["step"] + np.arange(SIZE, dtype=np.float32)[:, None]
        return {"actions": values + self.drift * (len(self.requests) - 1)}


class Body:
    """What a robot did."""

    def __init__(self, plan: Any, **options: Any) -> None:
        self.made: list[float] = []
        self.log: list[str] = []
        self.clock = SimulatedClock()
        options = {"clock": self.clock, "delay": SimulatedDelay(0.25), **options}
        self.robot = Robot(
            plan, observe=self.observe, execute=self.execute, stop=self.stop, **options
        )

    def observe(self) -> dict[str, Any]:
        return {"step": len(self.made)}

    def execute(self, action: Any) -> None:
        assert action.shape == (1,)
        self.log.append("go")
        self.made.append(float(action[0]))

    def stop(self) -> None:
        self.log.append("stop")


@pytest.mark.parametrize("merge", ["replace", "append", "weighted"])
@pytest.mark.parametrize("seconds", [0.0, 0.12, 0.25, (0.05, 0.38)])
def test_actions_are_executed_at_the_moments_that_they_are_for(merge: str, seconds: Any) -> None:
    body = Body(Plan(), merge=merge, delay=SimulatedDelay(seconds))
    report = body.robot.run(40)
    assert body.made == list(range(40))
    assert report.steps == 40 and report.starved_steps == 0 and report.largest_jump == 0
    assert max(report.delays) <= 4 and report.stale_chunks == 0
    assert body.log[-1] == "stop" and body.log.count("stop") == 1


def test_requests_say_what_is_executed_until_their_reply_is_there() -> None:
    plan = Plan(drift=0.5, prefix=("guided",))
    report = (body := Body(plan)).robot.run(30)
    assert report.prefixes == report.requests - 1 > 3
    for request in plan.requests[1:]:
        prefix, at = request["prefix"], request["step"]
        assert prefix["delay"] == 3 and prefix["mode"] == "guided" and len(prefix["values"]) > 3
        made = body.made[at : at + 3]
        assert prefix["values"][:3, 0].tolist()[: len(made)] == made
    assert report.delays[1:] == [3] * (len(report.delays) - 1) and report.late_chunks == 0
    assert report.largest_jump == pytest.approx(0.5)


@pytest.mark.parametrize("merge", ["replace", "append"])
def test_the_report_has_jump_and_jerk_where_chunks_follow_each_other(merge: str) -> None:
    """Each chunk is half a unit further than the one before: 1.5 instead of 1, and jerk 0.5 * 2."""
    body = Body(Plan(drift=0.5), merge=merge, delay=SimulatedDelay(0.2))
    report = body.robot.run(40)
    steps = np.diff(body.made)
    seams = report.seams
    assert seams["seams"] == (steps == 1.5).sum() >= 3 and set(steps) == {1, 1.5}
    assert seams["jump"] == pytest.approx(1.5) and seams["jump_within"] == pytest.approx(1)
    third = np.abs(np.diff(body.made, n=3)).max() * body.robot.control_hz**3
    assert 0 < seams["jerk"] <= third + 1e-6 and seams["jerk_within"] == pytest.approx(0)
    assert f"{seams['seams']} seams of chunks: jump 1.5 (within chunks 1)" in str(report)


def test_a_pause_is_no_seam() -> None:
    body = Body(Plan(drift=0.5), merge="replace", delay=SimulatedDelay(2.0))
    report = body.robot.run(24)
    assert report.starved_steps > 0 and report.seams["seams"] == 0


def test_a_prefix_is_of_the_mode_that_was_trained_for_its_delay() -> None:
    for learned, mode, count in ((3, "trained", 3), (2, "guided", 5)):
        plan = Plan(prefix=("trained", "guided"), learned=learned)
        Body(plan, refill=0.625).robot.run(20)
        prefix = plan.requests[1]["prefix"]
        assert prefix["mode"] == mode and len(prefix["values"]) == count
    plan = Plan(prefix=("trained",), learned=2)
    Body(plan).robot.run(20)
    assert not any("prefix" in request for request in plan.requests)
    plan = Plan(prefix=("guided",))
    Body(plan, merge="append").robot.run(20)
    assert not any("prefix" in request for request in plan.requests)


def test_a_robot_whose_queue_runs_empty_stands_still_until_the_next_chunk() -> None:
    body = Body(Plan(), delay=SimulatedDelay(1.0))
    report = body.robot.run(20)
    assert report.starved_steps > 0 and body.made == list(range(20))
    assert "stop go" in " ".join(body.log) and body.log[-1] == "stop"


def test_a_reply_beyond_its_chunk_is_dropped() -> None:
    delay = SimulatedDelay(0.1, spike=0.9, every=3, seed=1)
    report = (body := Body(Plan(), delay=delay)).robot.run(60)
    assert body.made == list(range(60)) and report.late_chunks > 0


def test_requests_that_fail_are_sent_again_and_end_the_run_if_they_always_fail() -> None:
    plan = Plan()
    plan.faults = [WamkitError("lost"), WamkitError("lost"), *[BusyError("busy")] * 5]
    report = (body := Body(plan)).robot.run(20)
    assert report.failed_requests == 7 and body.made == list(range(20))
    plan.faults = [WamkitError("no 'prompt'")] * 3
    with pytest.raises(WamkitError, match="no 'prompt'"):
        (body := Body(plan)).robot.run(20)
    assert body.log[-1] == "stop"
    plan.faults = [ValueError("a bug")]
    with pytest.raises(ValueError, match="a bug"):
        Body(plan).robot.run(20)


def test_a_reply_to_a_run_that_has_ended_is_no_part_of_the_next_one() -> None:
    body = Body(Plan())
    for _ in range(3):
        body.made.clear()
        assert body.robot.run(7).stale_chunks == 0 and body.made == list(range(7))
    slow, asked, free = Plan(), threading.Event(), threading.Event()
    plain = slow.infer

    def infer(observation: Mapping[str, Any]) -> dict[str, Any]:
        reply = plain(observation)
        if len(slow.requests) == 2:
            asked.set()
            assert free.wait(60)
        return reply

    slow.infer = infer  # type: ignore[method-assign]
    body = Body(slow, delay=None, clock=None, control_hz=200)
    body.robot.run(6)
    assert asked.wait(60)
    body.made.clear()
    threading.Timer(0.05, free.set).start()
    assert body.robot.run(6).steps == 6 and body.made == list(range(6))


def test_a_policy_that_never_answers_ends_the_run_after_patience() -> None:
    body = Body(Plan(), delay=SimulatedDelay(100.0), patience=2.0)
    with pytest.raises(WamkitError, match="no chunk came within 2 s"):
        body.robot.run(10)
    assert body.log == ["stop"] and 2 < body.clock.now() < 2.5


@pytest.mark.parametrize("where", ["observe", "execute"])
def test_an_error_of_the_robot_leaves_it_still(where: str) -> None:
    body = Body(Plan())

    def broken(*_: Any) -> Any:
        if len(body.made) == 5 or where == "observe":
            raise OSError("the arm is gone")
        body.execute(_[0])

    setattr(body.robot, where, broken)
    with pytest.raises(OSError, match="the arm is gone"):
        body.robot.run(20)
    assert body.log[-1] == "stop"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_the_robot_still(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    body = Body(Plan())

    def execute(action: Any) -> None:
        body.execute(action)
        if len(body.made) == 7:
            os.kill(os.getpid(), number)

    body.robot.execute = execute
    report = body.robot.run(20)
    assert report.ended_by == number.name and report.steps == 7 and body.log[-1] == "stop"
    assert signal.getsignal(number) is before


def test_a_run_ends_after_its_seconds_or_when_it_is_asked_to() -> None:
    body = Body(Plan())
    report = body.robot.run(seconds=1.95)
    assert report.steps == 20 and report.ended_by == "seconds"
    body.robot.execute = lambda action: body.robot.end()
    assert body.robot.run().ended_by == "end"


def test_what_cannot_run_is_refused_with_a_hint() -> None:
    with pytest.raises(WamkitError, match="no way to merge chunks is called 'replce'") as error:
        Body(Plan(), merge="replce")
    assert "replace" in error.value.hint
    with pytest.raises(WamkitError, match="refill = 0"):
        Body(Plan(), refill=0)
    plan = Plan()
    plan.metadata["actions"] = ["x", "y"]
    with pytest.raises(WamkitError, match=r"a chunk \[8, 1\]; expected finite actions \[N, 2\]"):
        Body(plan).robot.run(5)


def test_a_report_reads_as_text_and_as_plain_data() -> None:
    report = Body(Plan()).robot.run(20)
    assert report.as_dict()["steps"] == 20 and report.latency_ms["p50"] == pytest.approx(250)
    assert "20 actions, 0 steps without one" in str(report) and "delay in steps: 3" in str(report)


SEEN = {"observation/front": np.zeros((32, 32, 3), np.uint8), "prompt": "pick up", "seed": 3}


def test_a_policy_of_this_process_answers_as_a_server_does() -> None:
    local, listener = LocalPolicy(policy(), "toy"), bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy"), listener), Client(*address_of(listener)) as client:
        assert local.metadata == client.metadata
        local.reset()
        same_values(local.infer(SEEN)["actions"], client.infer(SEEN)["actions"])
        with pytest.raises(WamkitError, match="has no 'prompt'"):
            local.infer({"observation/front": SEEN["observation/front"]})


def test_a_robot_runs_against_a_server_in_real_time() -> None:
    made: list[Any] = []
    listener, still = bind("127.0.0.1", 0), threading.Event()
    with run_in_thread(Server(policy(), "toy"), listener), Client(*address_of(listener)) as client:
        robot = Robot(
            client, observe=lambda: SEEN, execute=made.append, stop=still.set, control_hz=100
        )
        report = robot.run(25)
    assert still.is_set() and report.steps == len(made) == 25 and report.chunks >= 4
    assert made[0].shape == (4,) and report.latency_ms["max"] > 0


def test_the_runtime_imports_no_torch() -> None:
    script = "import sys, wamkit.runtime, wamkit.serve.client; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
