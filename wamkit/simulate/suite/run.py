"""Play the episodes of a suite: several simulators at work, their observations in one batch.

The places are in two groups, if there are enough: while the policy decides for one, the simulators
of the other work. A simulator that begins an episode joins its group when it is ready. So the
order in which episodes end depends on time, and what happens in them does not: each has its own
seed, and its own row in batches that always have the same shape (`PolicyActor`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from ...errors import WamkitError
from ..env_pool import EnvPool, Progress
from ..environment import EnvObservation, Robot
from ..episodes import Frame, Rollout
from ..policy_runner import RunningEpisode
from .actor import Actor
from .plan import PlannedEpisode

SMOOTH = 3
"""Episodes of each task, the first ones, that are observed at every step if films are made."""


@dataclass
class Played:
    """An episode that has ended."""

    planned: PlannedEpisode
    rollout: Rollout
    """With frames, if films are made: of every step, or of the steps that were looked at."""
    every: int
    """Steps from one frame to the next."""
    seconds: float
    decision_ms: float | None = None


@dataclass
class _Place:
    """A simulator: its episodes to come, and the one that runs."""

    queue: list[PlannedEpisode]
    planned: PlannedEpisode | None = None
    running: RunningEpisode | None = None
    asked: str = ""  # what its worker has been asked and has not answered
    since: float = 0.0
    decisions: list[float] = field(default_factory=list)


class SuiteRun:
    """The episodes of `queues`, one queue for each worker.

    `films`: keep frames. Raises WamkitError if tasks have different robots, and whatever the
    simulators and the policy raise.
    """

    def __init__(
        self,
        workers: EnvPool,
        queues: Sequence[Sequence[PlannedEpisode]],
        robot: Robot,
        *,
        films: bool,
    ) -> None:
        self.workers, self.robot, self.films = workers, robot, films
        self.places = [_Place(list(queue)) for queue in queues]

    def play(self, who: str) -> Iterator[Played]:
        """Yield episodes of `random` or `expert` as they end."""
        for number in range(len(self.places)):
            self._ask_to_play(number, who)
        while busy := [n for n, place in enumerate(self.places) if place.asked]:
            for number in list(self.workers.ready(busy)):
                place = self.places[number]
                rollout: Rollout = self.workers.answer(number)
                assert place.planned is not None
                done = Played(place.planned, rollout, 1, perf_counter() - place.since)
                self._ask_to_play(number, who)
                yield done

    def evaluate(self, actor: Actor) -> Iterator[Played]:
        """Yield episodes of a policy as they end."""
        count = len(self.places)
        groups = [range(0, count, 2), range(1, count, 2)] if count > 3 else [range(count)]
        for number in range(count):
            self._begin(number)
        while busy := [n for n, place in enumerate(self.places) if place.asked]:
            if all(self.places[n].asked == "begin" for n in busy):
                list(self.workers.ready(busy))  # waits for the first
            for group in groups:
                yield from self._round(actor, group)

    def _round(self, actor: Actor, group: range) -> Iterator[Played]:
        """Collect what the simulators of a group made, and decide once for those that go on."""
        for number in group:
            place = self.places[number]
            if place.asked == "advance":
                self._take_progress(place, self.workers.answer(number))
                if place.running is not None and place.running.over:
                    done = self._finish(place)
                    self._begin(number)
                    yield done
        for number in group:
            if self.places[number].asked == "begin" and self.workers.is_ready(number):
                self._take_beginning(self.places[number], *self.workers.answer(number))
                actor.begin(number)
        active = {n: run for n in group if (run := self._idle_episode(n)) is not None}
        if not active:
            return
        start = perf_counter()
        chunks = actor.decide(active, group)
        spent = perf_counter() - start
        for number, chunk in chunks.items():
            place = self.places[number]
            place.decisions.append(spent)
            active[number].actions += list(chunk)
            self.workers.ask(number, "advance", chunk, self._every(place, actor))
            place.asked = "advance"

    def _idle_episode(self, number: int) -> RunningEpisode | None:
        place = self.places[number]
        return None if place.asked else place.running

    def _every(self, place: _Place, actor: Actor) -> int:
        assert place.planned is not None
        return 1 if self.films and place.planned.number < SMOOTH else actor.every

    def _begin(self, number: int) -> None:
        """Ask for the next episode of a place, if there is one."""
        if (place := self._next(number)) is not None and place.planned is not None:
            self.workers.ask(number, "begin", place.planned.task.config, place.planned.seed)
            place.asked = "begin"

    def _ask_to_play(self, number: int, who: str) -> None:
        if (place := self._next(number)) is not None and place.planned is not None:
            keep = self.films and place.planned.number < SMOOTH
            config, seed = place.planned.task.config, place.planned.seed
            self.workers.ask(number, "play_in", config, seed, who, keep)
            place.asked = "play"

    def _next(self, number: int) -> _Place | None:
        place = self.places[number]
        place.planned = place.running = None
        place.asked, place.decisions, place.since = "", [], perf_counter()
        if not place.queue:
            return None
        place.planned = place.queue.pop(0)
        return place

    def _take_beginning(self, place: _Place, robot: Robot, seen: EnvObservation) -> None:
        assert place.planned is not None
        if robot != self.robot:
            raise WamkitError(
                f"task {place.planned.task.name} has another robot than the tasks before it",
                "evaluate it by itself: --tasks",
            )
        place.running, place.asked = RunningEpisode(place.planned.seed, {0: seen}), ""

    def _take_progress(self, place: _Place, made: Progress) -> None:
        one = place.running
        assert one is not None
        place.asked = ""
        one.take(made)

    def _finish(self, place: _Place) -> Played:
        one, planned = place.running, place.planned
        assert one is not None and planned is not None
        frames, last, every = self._frames(one) if self.films else ((), None, 1)
        rollout = Rollout(
            one.seed,
            any(one.successes),
            sum(one.rewards),
            one.step,
            one.seen[0].instruction,
            frames=frames,
            last=last,
            timing=one.timing,
        )
        decision = 1000 * sum(place.decisions) / len(place.decisions)
        return Played(planned, rollout, every, perf_counter() - place.since, decision)

    def _frames(self, one: RunningEpisode) -> tuple[tuple[Frame, ...], Any, int]:
        """The frames that were looked at, the last one, and the steps between them."""
        looks = [step for step in sorted(one.seen) if step < one.step]
        every = looks[1] - looks[0] if len(looks) > 1 else 1
        ends = [*looks[1:], one.step]
        frames = tuple(
            Frame(
                one.seen[step],
                one.actions[step],
                sum(one.rewards[step:end]),
                any(one.successes[step:end]),
            )
            for step, end in zip(looks, ends, strict=True)
        )
        return frames, one.seen.get(one.step), every
