"""A robot that executes actions at a fixed rate while the policy computes the next ones."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from threading import Event, current_thread, main_thread
from typing import Any

import numpy as np

from ..errors import BusyError, WamkitError, did_you_mean
from ..policy.seams import SeamMeter
from .latency import LatencyWindow, SimulatedDelay, percentile
from .merging import MERGES, Actions, append, jump
from .pacing import Clock, Pacer, SystemClock
from .past_images import PastImages
from .report import RunReport
from .requests import ChunkSource, DelayedRequests, Reply, Requests

MOST_FAILURES = 3
"""Requests in a row that may fail before the run ends."""


class Robot:
    """Runs a policy on a robot.

        from wamkit.runtime import Robot
        from wamkit.serve.client import Client

        robot = Robot(Client("192.168.0.7"), observe=read, execute=command, stop=hold)
        print(robot.run(seconds=60))

    Each step of `control_hz` executes one action of a queue. A new chunk is requested once the
    queue has `refill` of a chunk left, or no more than are executed until the reply is expected;
    one request is in flight at a time. The latency of replies is measured and counted in executed
    actions, which is what a new chunk is aligned by. Where the policy takes prefixes
    (`metadata["prefix"]`) and chunks replace each other, a request says which actions are executed
    meanwhile, so that the new chunk continues them: real-time chunking.

    A policy that looks at several moments (`metadata["image_steps"]`) gets the images of those, of
    which the first one is repeated before the run began. One that remembers its episode
    (`metadata["stateful"]`) is asked when its chunk was executed to its end, with the images of
    meanwhile, and the robot stands still until the next one is there. A run is an episode, and
    requests say how many of its actions were executed (`metadata["moments"]`).

    `stop` is called whenever the robot has no action to execute, and at the end of every run, also
    after an error, Ctrl-C or SIGTERM: nothing is executed after it.

    Args:
        policy: `wamkit.serve.client.Client`, `wamkit.serve.local.LocalPolicy`, or alike.
        observe: Returns the observation of now: the keys that the policy expects, with one image
            of each camera. Called in the loop, at each request, or at each step where the policy
            looks at several moments: return new arrays with the newest images, and wait for none.
        execute: Executes one action [A] in physical units, and returns at once. If it executes
            another one, such as one that is clipped to the robot's limits, it returns that: the
            memory of a policy takes what was executed. Others do not look at what it returns.
        stop: Leaves the robot still: where actions are differences, by executing none; where they
            are targets, by keeping the last one, because zero is a place. Called more than once.
        merge: How a new chunk continues the one before: "replace" (the default), "weighted" or
            "append" (`wamkit.runtime.merging`), or such a function.
        control_hz: Steps a second; by default those that the policy was trained with.
        refill: Share of a chunk, above 0 and up to 1; by default 0.5.
        latency: Window of measured latencies.
        patience: Seconds without an action after which the run ends with an error.
        delay: Simulates that replies take so long; they are computed in this thread then.
        clock: By default that of the machine.

    Raises WamkitError for a way to merge that is unknown, a refill that is no such share, and for
    either if the policy remembers its episode, whose chunks are executed whole.
    """

    def __init__(
        self,
        policy: ChunkSource,
        *,
        observe: Callable[[], Mapping[str, Any]],
        execute: Callable[[Actions], Any],
        stop: Callable[[], Any],
        merge: str | Callable[[Actions, Actions, int], Actions] | None = None,
        control_hz: float | None = None,
        refill: float | None = None,
        latency: LatencyWindow | None = None,
        patience: float = 10.0,
        delay: SimulatedDelay | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.policy, self.observe, self.execute, self.stop = policy, observe, execute, stop
        self._past = PastImages(policy.metadata)
        if self._past.stateful and (merge is not None or refill is not None):
            raise WamkitError(
                "this policy remembers its episode: its chunks are executed whole, one after the "
                "other, and the next one is requested at their end",
                "leave merge and refill out",
            )
        merge, refill = merge or "replace", 0.5 if refill is None else refill
        if isinstance(merge, str) and merge not in MERGES:
            hint = did_you_mean(merge, list(MERGES), f"choose one of {', '.join(MERGES)}")
            raise WamkitError(f"no way to merge chunks is called {merge!r}", hint)
        if not 0 < refill <= 1:
            raise WamkitError(f"refill = {refill}; expected a share of a chunk", "0.5 is usual")
        self.merge = MERGES[merge] if isinstance(merge, str) else merge
        self.control_hz = float(control_hz or policy.metadata["control_hz"])
        self.latency, self.patience = latency or LatencyWindow(), patience
        self.clock: Clock = clock or SystemClock()
        self._requests = Requests(policy, self.clock)
        if delay is not None:
            self._requests = DelayedRequests(policy, self.clock, delay)
        self._size = int(policy.metadata["chunk_size"])
        self._width = len(policy.metadata["actions"])
        self._refill = max(1, int(refill * self._size))
        continues = merge == "replace" and not self._past.stateful
        self._modes = policy.metadata.get("prefix", ()) if continues else ()
        self._ended = Event()

    def end(self) -> None:
        """End the run at its next step; from any thread."""
        self._ended.set()

    def run(self, steps: int | None = None, *, seconds: float | None = None) -> RunReport:
        """Run until so many actions were executed, so much time has passed, or `end` is called.

        A run begins once the first chunk is there. Raises WamkitError if the policy refuses
        requests again and again or sends no chunk within `patience`, and what `observe` and
        `execute` raise; the robot is still then.
        """
        self._report, self._rest = RunReport(), np.zeros((0, self._width), np.float32)
        self._seconds: list[float] = []
        known = self.policy.metadata.get("differences", ())
        differences = [i for i in range(self._width) if i in known]
        self._meter = SeamMeter(self.control_hz, differences)
        self._begins: set[int] = set()  # steps at which chunks begin that are planned
        self._executed_at_request = self._expected = self._failures = 0
        self._still, self._begun = True, False
        self._ended.clear()
        self._requests.drop()  # of a run before
        self._past.begin()
        self._episode = secrets.token_hex(8)
        pacer, most = Pacer(self.control_hz, self.clock), float("inf") if steps is None else steps
        waiting_since = until = self.clock.now()
        try:
            with self._signals():
                while self._report.steps < most and not self._ended.is_set():
                    pacer.wait()
                    now = self.clock.now()
                    if (reply := self._requests.take()) is not None:
                        self._take(reply)
                    if self._begun and seconds is not None and now >= until:
                        self._report.ended_by = "seconds"
                        break
                    if self._past.needed:
                        self._past.add(self._report.steps, self.observe())
                    self._request()
                    if len(self._rest):
                        until = until if self._begun else now + (seconds or 0.0)
                        waiting_since, self._begun = now, True
                        self._step()
                    else:
                        self._wait(now - waiting_since)
        finally:
            self._ended.set()
            self.stop()
        report = self._report
        if report.ended_by == "steps" and report.steps < most:
            report.ended_by = "end"
        report.seams = asdict(self._meter.sums.smoothness)
        report.jitter_ms, report.overruns = pacer.jitter_ms(), pacer.overruns
        report.latency_ms = {
            "p50": 1000 * percentile(self._seconds, 50),
            "p95": 1000 * percentile(self._seconds, 95),
            "max": 1000 * max(self._seconds or [0.0]),
        }
        return report

    def _step(self) -> None:
        """Execute the next action."""
        action, self._rest = self._rest[0], self._rest[1:]
        self._still = False
        self._past.add_action(action, self.execute(action.copy()))
        self._meter.add(action, begins=self._report.steps in self._begins)
        self._begins.discard(self._report.steps)
        self._report.steps += 1

    def _wait(self, seconds: float) -> None:
        """Stand still for a step. Raises WamkitError beyond `patience`."""
        if not self._still:
            self.stop()
            self._still = True
            self._meter.pause()
        self._report.starved_steps += self._begun
        if seconds > self.patience:
            raise WamkitError(
                f"no chunk came within {self.patience:g} s",
                "look at the log of the server, or pass a larger patience",
            )

    def _request(self) -> None:
        """Ask for the next chunk, if it is time to."""
        delay = self.latency.steps(self.control_hz)
        most = 0 if self._past.stateful else max(self._refill, delay)
        if self._requests.in_flight or len(self._rest) > most:
            return
        step = self._report.steps
        if not self._past.needed:
            self._past.add(step, self.observe())
        request = self._past.request(step)
        if self.policy.metadata.get("moments"):
            request = {"step": step, "episode": self._episode, **request}
        delay = min(delay, len(self._rest))
        if delay and (mode := self._mode(delay)):
            planned = self._rest if mode == "guided" else self._rest[:delay]
            request["prefix"] = {"values": planned, "delay": delay, "mode": mode}
            self._report.prefixes += 1
        self._executed_at_request, self._expected = self._report.steps, delay
        self._report.requests += 1
        self._requests.send(request)

    def _mode(self, delay: int) -> str | None:
        """The mode of a prefix of so many actions: the one that was trained, if it was for it."""
        learned = int(self.policy.metadata.get("max_delay", 0))
        known = [mode for mode in self._modes if mode != "trained" or delay <= learned]
        return known[0] if known else None

    def _take(self, reply: Reply) -> None:
        """Merge a chunk. Raises the error of a request that failed too often."""
        report = self._report
        if reply.error is not None:
            report.failed_requests += 1
            if isinstance(reply.error, BusyError):
                return  # it is asked again, for as long as `patience` lasts
            self._failures += 1
            if self._failures >= MOST_FAILURES or not isinstance(reply.error, WamkitError):
                raise reply.error
            return
        assert reply.answer is not None
        chunk = np.asarray(reply.answer["actions"], np.float32)
        if chunk.ndim != 2 or chunk.shape[1] != self._width or not np.isfinite(chunk).all():
            raise WamkitError(
                f"a chunk {list(chunk.shape)}; expected finite actions [N, {self._width}]",
                "look at the log of the server",
            )
        self._failures = 0
        self._past.replied(reply.answer)
        self.latency.add(reply.seconds)
        self._seconds.append(reply.seconds)
        executed = report.steps - self._executed_at_request
        report.delays.append(executed)
        report.late_chunks += executed > self._expected and self._begun
        if executed >= len(chunk):
            report.stale_chunks += 1
            return
        merged = self.merge(self._rest, chunk, executed)
        report.largest_jump = max(report.largest_jump, jump(self._rest, merged))
        report.chunks += 1
        if self.merge is append:
            self._begins.add(report.steps + len(self._rest))
        else:
            self._begins = {report.steps}
        self._rest = merged

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Within the block, SIGINT and SIGTERM end the run in order, with the robot still."""
        if current_thread() is not main_thread():
            yield
            return

        def end(number: int, frame: Any) -> None:
            self._report.ended_by = signal.Signals(number).name
            self.end()

        before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
