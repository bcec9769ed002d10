"""The plan of a suite's evaluation: which episodes, in which order, in which simulator.

    position   0  1  2  3  4  5  6  7        all episodes of a task, then those of the next
    shard 1/2  0     1     2     3           every second episode, counted anew
    simulator  0     1     0     1           by that count; also the row in the policy's batch

All of it follows from the settings, so that a run that goes on computes what an uninterrupted one
would have: the same episodes in the same rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...config.parts import EnvironmentConfig
from ...config.suites import Suite
from ...errors import WamkitError
from ..environment import choose


@dataclass(frozen=True)
class Task:
    """One task of a suite."""

    number: int
    """Its place in the suite."""
    subject: str
    """As the suite names it."""
    config: EnvironmentConfig

    @property
    def name(self) -> str:
        """For tables and files; an environment with one task gives its own name."""
        return self.subject or self.config.name

    @property
    def instruction(self) -> str:
        """As it is set, or listed with the task; empty if neither."""
        listed = type(self.config).subjects.get(self.subject, "")
        return getattr(self.config, "instruction", None) or listed


@dataclass(frozen=True)
class PlannedEpisode:
    """One episode of a task."""

    task: Task
    number: int
    """From 0, within the task."""
    seed: int

    @property
    def key(self) -> tuple[str, int]:
        """What identifies the episode."""
        return self.task.subject, self.number


@dataclass(frozen=True)
class Shard:
    """One of `count` equal shares of the plan; `index` counts from 0."""

    index: int = 0
    count: int = 1

    @property
    def label(self) -> str:
        """As it is typed, from 1."""
        return f"{self.index + 1}/{self.count}"


def parse_shard(text: str | None) -> Shard | None:
    """`I/N` as a shard. Raises WamkitError if it is none."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise WamkitError(
            f"--shard {text[:40]!r} is no share", "write --shard 1/8, up to --shard 8/8"
        )
    return Shard(int(found[1]) - 1, int(found[2]))


def tasks_of(
    suite: Suite, numbers: Iterable[int], overrides: Sequence[str], conventions: str = ""
) -> list[Task]:
    """The tasks of those numbers, each with its environment by the suite's protocol.

    `overrides` of the environment come last; `conventions` are those of the policy. Raises
    WamkitError if one is wrong, or if a module is missing.
    """
    settings = [*suite.settings, *overrides]
    return [
        Task(n, suite.subjects[n], choose(suite.label(suite.subjects[n]), settings, conventions))
        for n in numbers
    ]


def plan_episodes(tasks: Iterable[Task], episodes: int, seed: int) -> list[PlannedEpisode]:
    """`episodes` of each task, task by task; the seeds of every task are `seed`, `seed` + 1, ..."""
    return [PlannedEpisode(task, k, seed + k) for task in tasks for k in range(episodes)]


def queues_of(
    plan: Sequence[PlannedEpisode], simulators: int, shard: Shard | None
) -> list[list[PlannedEpisode]]:
    """The episodes of each simulator, in order."""
    share = plan if shard is None else plan[shard.index :: shard.count]
    return [list(share[place::simulators]) for place in range(simulators)]
