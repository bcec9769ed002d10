"""One request in flight: computed in another thread, or answered after a simulated delay."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread
from typing import Any, Protocol

from .latency import SimulatedDelay
from .pacing import Clock


class ChunkSource(Protocol):
    """A policy that answers observations with chunks: a client of a server, or one of here."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The greeting: what the policy takes and returns."""

    def infer(self, observation: Mapping[str, Any]) -> Mapping[str, Any]:
        """The reply to an observation, with `actions` [N, A]; raises WamkitError."""


@dataclass(frozen=True)
class Reply:
    """What became of a request."""

    answer: Mapping[str, Any] | None
    error: Exception | None
    seconds: float
    """From sending the request to its reply."""


class Requests:
    """Sends one request at a time, each in a thread of its own."""

    def __init__(self, policy: ChunkSource, clock: Clock) -> None:
        self.policy, self.clock = policy, clock
        self._running: Future[Reply] | None = None
        self._dropped = False

    @property
    def in_flight(self) -> bool:
        """True while a request has no reply that was taken."""
        return self._running is not None

    def send(self, observation: Mapping[str, Any]) -> None:
        """Send a request; none may be in flight."""
        assert not self.in_flight
        running: Future[Reply] = Future()
        begun = self.clock.now()
        # Of a daemon: a server that never answers keeps no process from its end.
        Thread(
            target=lambda: running.set_result(self._ask(observation, begun)),
            name="request",
            daemon=True,
        ).start()
        self._running = running

    def take(self) -> Reply | None:
        """The reply, if it is there."""
        if self._running is None or not self._running.done():
            return None
        done, self._running = self._running.result(), None
        dropped, self._dropped = self._dropped, False
        return None if dropped else done

    def drop(self) -> None:
        """Drop the reply to a request that is in flight; the next one waits for it."""
        self._dropped = self.in_flight

    def _ask(self, observation: Mapping[str, Any], begun: float) -> Reply:
        answer: Mapping[str, Any] | None = None
        error: Exception | None = None
        try:
            answer = self.policy.infer(observation)
        except Exception as problem:
            error = problem
        return Reply(answer, error, self.clock.now() - begun)


class DelayedRequests(Requests):
    """Computes replies at once and hands them over after a simulated delay.

    With a `SimulatedClock` nothing depends on how fast the machine is.
    """

    def __init__(self, policy: ChunkSource, clock: Clock, delay: SimulatedDelay) -> None:
        super().__init__(policy, clock)
        self.delay = delay
        self._held: tuple[Reply, float] | None = None

    @property
    def in_flight(self) -> bool:
        """True while a request has no reply that was taken."""
        return self._held is not None

    def send(self, observation: Mapping[str, Any]) -> None:
        """Compute the reply; it is there after the next delay."""
        assert not self.in_flight
        begun, seconds = self.clock.now(), self.delay.draw()
        reply = self._ask(observation, begun)
        self._held = Reply(reply.answer, reply.error, seconds), begun + seconds

    def take(self) -> Reply | None:
        """The reply, if its time has come."""
        if self._held is None or self.clock.now() < self._held[1] - 1e-9:
            return None
        reply, self._held = self._held[0], None
        return reply

    def drop(self) -> None:
        """Drop the reply at once."""
        self._held = None
