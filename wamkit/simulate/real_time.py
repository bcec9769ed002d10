"""Episodes in which the world goes on while the policy computes, as it does for a robot.

    asked here            asked again, after n steps
    |     reply is here   |
    v     v               v
    a a a b b b b b b b b b
    [ d ][    n - d      ]

During the delay of d steps the actions of the chunk before are executed, and the robot stands still
where there are none: differences are zero, and targets stay as they are (`hold_action`). Delays are
drawn for each episode from its own seed, so that results depend neither on the machine nor on the
other episodes of a batch. An episode begins with its first chunk, which comes without a delay, so
that a robot that stands still always has a last target.

A policy with a memory sees what became of a whole chunk before it plans the next one: nothing
is left to execute meanwhile, and the robot stands still for every delay.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..policy.action_prefix import ActionPrefix
from ..policy.observation import Observation
from ..policy.policy import Policy
from ..policy.seams import SeamSums, sum_seams
from ..runtime.latency import LatencyWindow, SimulatedDelay, delay_steps
from ..runtime.merging import MERGES, append, jump
from .holding import hold_action
from .policy_runner import PolicyRunner, RunningEpisode
from .timing import EpisodeTiming

Actions = NDArray[np.float32]


@dataclass
class Plan:
    """What one episode is about to execute, the delays that it has met, and what they did."""

    delay: SimulatedDelay
    rest: Actions
    latency: LatencyWindow = field(default_factory=LatencyWindow)
    delays: list[int] = field(default_factory=list)
    """Steps between each observation and the first action that it decided."""
    largest_jump: float = 0.0
    begins: list[int] = field(default_factory=list)
    """Steps at which new chunks begin."""
    idle: list[int] = field(default_factory=list)
    """Steps in which the robot stands still."""
    control_hz: float = 1.0
    deltas: tuple[int, ...] = ()

    def timing(self, one: RunningEpisode) -> EpisodeTiming:
        """Counts of what the episode has executed; its end cuts a chunk."""
        done = one.actions[: one.step]
        seams = SeamSums()
        if done:
            inside = sorted({start for start in self.begins if 0 < start < len(done)})
            seams = sum_seams(np.stack(done), inside, self.control_hz, self.deltas)
        return EpisodeTiming(
            len(self.delays),
            len(done),
            sum(step < len(done) for step in self.idle),
            sum(self.delays),
            max(self.delays, default=0),
            self.largest_jump,
            seams,
        )


class RealTimeRunner(PolicyRunner):
    """A `PolicyRunner` whose chunks come late.

    Args:
        policy: What decides. One with a memory of its episode executes whole chunks.
        views: Policy view -> camera of the environment.
        execute_steps: Steps from one request to the next, or those of the delay if it is longer.
        act_options: Choices of the paradigm.
        delay: Seed of an episode -> its delays.
        merge: "replace", "weighted" or "append" (`wamkit.runtime.merging`).
        prefix: Mode of a prefix that tells the policy what is executed meanwhile; None for none.
        still: What a robot without an action executes: "hold" for what leaves it where it is, or
            "repeat" for its last action, differences included.
        imagine: Also store what the policy imagines.
    """

    def __init__(
        self,
        policy: Policy,
        views: Mapping[str, str],
        execute_steps: int,
        act_options: Mapping[str, Any],
        delay: Callable[[int], SimulatedDelay],
        *,
        merge: str = "replace",
        prefix: str | None = None,
        still: str = "hold",
        imagine: bool = False,
    ) -> None:
        super().__init__(policy, views, execute_steps, act_options, imagine)
        if merge not in MERGES or still not in ("hold", "repeat"):
            raise WamkitError(
                f"merge = {merge!r} and still = {still!r}",
                f"merge is one of {', '.join(MERGES)}, still is hold or repeat",
            )
        if prefix is not None and merge != "replace":
            raise WamkitError(
                f"a prefix, and chunks that are merged by {merge!r}",
                "choose replace: a chunk with a prefix continues the one before by itself",
            )
        self.stateful = policy.paradigm.stateful
        if self.stateful and (prefix is not None or merge != "replace"):
            raise WamkitError(
                f"{policy.spec.paradigm.name} remembers its episode, and its chunks are executed "
                "whole, one after the other: there is nothing to merge or to continue",
                'leave merge at "replace", and prefix out',
            )
        self.delay, self.merge, self.prefix, self.still = delay, MERGES[merge], prefix, still
        if policy.spec.video.num_observed > 1 or self.stateful:
            self.every = 1  # a delay may put a look at any step

    def sample_actions(self, running: Sequence[RunningEpisode]) -> list[Actions]:
        """The next actions of each episode, as many as are executed until it is asked again."""
        spec = self.policy.spec.actions
        hz = spec.control_hz
        expected = []
        for one in running:
            if one.plan is None:
                size = len(self.policy.actions.executed)
                none = np.zeros((0, size), np.float32)
                one.plan = Plan(self.delay(one.seed), none, control_hz=hz, deltas=spec.deltas)
            expected.append(min(one.plan.latency.steps(hz), len(one.plan.rest)))
        if self.stateful:
            chunks = super().sample_actions(running)
        else:
            chunks = self._chunks(running, expected)
        _part_plans(running)
        return [self._execute(one, chunk) for one, chunk in zip(running, chunks, strict=True)]

    def _chunks(self, running: Sequence[RunningEpisode], expected: list[int]) -> list[Actions]:
        """A whole chunk for each episode; those with prefixes of one length share a batch.

        In a steady batch, rows with other lengths repeat one of those.
        """
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row, (one, delay) in enumerate(zip(running, expected, strict=True)):
            known = len(one.plan.rest) if self.prefix and delay else 0
            groups[known, delay if known else 0].append(row)
        found: dict[int, Actions] = {}
        for (known, delay), rows in groups.items():
            places = list(range(len(running))) if self.steady else rows
            asked = [running[row if row in rows else rows[0]] for row in places]
            seen = self._to_observation([self._context(one) for one in asked])
            rests = np.stack([one.plan.rest for one in asked]) if known else None
            values = self._act(seen, [one.chunk_seed for one in asked], rests, delay)
            made = dict(zip(places, values, strict=True))
            found |= {row: made[row] for row in rows}
        for one in running:
            one.decisions += 1
        return [found[row] for row in range(len(running))]

    def _act(
        self, seen: Observation, seeds: list[int], rests: Actions | None, delay: int
    ) -> Sequence[Actions]:
        """Chunks [B, N, A] after given prefixes [B, n, A]."""
        options = dict(self.act_options)
        if rests is not None:
            mode: Any = self.prefix
            options["prefix"] = ActionPrefix(rests, delay, mode=mode)
        return list(self.policy.act(seen, seed=seeds, **options).values.numpy())

    def _execute(self, one: RunningEpisode, chunk: Actions) -> Actions:
        """What an episode executes until it is asked again: the old plan, then the new one."""
        plan: Plan = one.plan
        seconds = plan.delay.draw()
        plan.latency.add(seconds)
        delay = delay_steps(seconds, self.policy.spec.actions.control_hz) if one.step else 0
        old = plan.rest[:delay]
        idle = self._idle(one, old, delay - len(old))
        rest = plan.rest[len(old) :]
        merged = self.merge(rest, chunk.astype(np.float32), len(old))
        count = max(0, max(self.execute_steps, delay, 1) - delay)
        if self.stateful:
            count = len(merged)  # all of it, after a delay in which the robot stood still
        plan.rest = merged[count:]
        begins = one.step + len(old) + len(idle)
        plan.begins.append(begins + (len(rest) if self.merge is append else 0))
        plan.idle += range(begins - len(idle), begins)
        plan.delays.append(delay)
        plan.largest_jump = max(plan.largest_jump, jump(rest, merged))
        return np.concatenate([old, idle, merged[:count]])

    def _idle(self, one: RunningEpisode, old: Actions, count: int) -> Actions:
        """Actions [count, A] that leave the robot still after `old`."""
        if not count:
            return old[:0]
        last = old[-1] if len(old) else one.actions[-1]
        held = last if self.still == "repeat" else hold_action(self.policy.spec.actions, last)
        assert held is not None  # of the last action, every target is known
        return np.tile(held, (count, 1)).astype(np.float32)


def _part_plans(running: Sequence[RunningEpisode]) -> None:
    """Give rows that repeat an episode, to fill a batch, a plan of their own."""
    met = set[int]()
    for one in running:
        if id(one.plan) in met:
            one.plan = deepcopy(one.plan)
        met.add(id(one.plan))
