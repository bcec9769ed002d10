"""Record episodes of an expert into a LeRobot data set: observations, actions, rewards.

The notes of the data set hold the settings and the progress of each collection, so that one that
was interrupted, or that was too small, continues: no seed is tried twice.
"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from ..config.mistakes import explain_mistakes
from ..config.parts import EnvironmentConfig
from ..config.robot import Section
from ..config.seeds import expect_seed
from ..data import Feature, Writer
from ..data.schema import MOST_EPISODES
from ..data.writer import notes
from ..errors import WamkitError
from .env_pool import EnvPool
from .environment import Robot
from .episodes import Rollout
from .rollout import play

PATIENCE = 4
"""Attempts for each episode that is wanted, before an expert is given up."""
NOTE = "collected"
"""Key of the collections in the notes of a data set."""


@dataclass(frozen=True)
class CollectionSummary:
    """Totals of a collection over all its sessions."""

    episodes: int
    frames: int
    attempts: int
    seeds: tuple[int, int]  # the first and the last that were tried


class _Entry(Section):
    """One collection in the notes of a data set."""

    environment: dict[str, Any]
    seed: int
    noise: float
    post_success_steps: int
    episodes: int = Field(ge=0, le=MOST_EPISODES)
    frames: int = Field(ge=0, lt=10**12)
    attempts: int = Field(ge=0, lt=10**12)

    @model_validator(mode="after")
    def _count_is_valid(self) -> _Entry:
        if not self.episodes <= min(self.frames, self.attempts):
            raise ValueError("there are more episodes than frames or attempts")
        return self


class _Notes(Section):
    collected: list[_Entry]


@dataclass(frozen=True)
class CollectionConfig:
    """Settings that determine the episodes of a collection, except their number."""

    environment: EnvironmentConfig
    seed: int = 0  # of the first attempt; then one by one
    noise: float = 0.1
    post_success_steps: int = 4  # actions after the first success

    def entry(self, dataset_notes: dict[str, Any]) -> dict[str, Any] | None:
        """The entry of this collection in the notes of a data set, or None if it was not begun."""
        mine = self._plain()
        found: list[dict[str, Any]] = dataset_notes.get(NOTE, [])
        try:
            _Notes.model_validate({NOTE: found}, strict=True)
        except ValidationError as error:
            faults = "; ".join(str(c) for c in explain_mistakes(error, "", _Notes)[:8])
            raise WamkitError(
                f"the notes of the data set about its collections are damaged: {faults}",
                "remove meta/wamkit.json, and add to the data set with --append",
            ) from None
        return next((e for e in found if all(e[k] == v for k, v in mine.items())), None)

    def count_kept(self, folder: Path) -> int:
        """Episodes of this collection that are in the data set in a folder."""
        entry = self.entry(notes(folder))
        return entry["episodes"] if entry else 0

    def begin(self, dataset_notes: dict[str, Any]) -> dict[str, Any]:
        """The entry of this collection among the notes, a new one if there is none."""
        if (entry := self.entry(dataset_notes)) is None:
            entry = {**self._plain(), "episodes": 0, "frames": 0, "attempts": 0}
            dataset_notes.setdefault(NOTE, []).append(entry)
        return entry

    def _plain(self) -> dict[str, Any]:
        environment = self.environment.model_dump(mode="json")
        numbers = {
            "seed": self.seed,
            "noise": self.noise,
            "post_success_steps": self.post_success_steps,
        }
        return {"environment": environment, **numbers}


def open_dataset(
    folder: Path, robot: Robot, image_format: Literal["video", "image"], codec: str | None = None
) -> Writer:
    """Open a data set for observations and actions of the robot, with LeRobot's keys."""
    features = {
        f"observation.images.{name}": Feature(image_format, (*size, 3))
        for name, size in robot.cameras.items()
    }
    if robot.state:
        names = list(robot.state)
        features["observation.state"] = Feature("float32", (len(names),), names)
    features["action"] = Feature("float32", (len(robot.actions),), list(robot.actions))
    features["next.reward"] = Feature("float32", (1,))
    features["next.success"] = Feature("bool", (1,))
    return Writer(folder, robot.control_hz, features, robot.kind, codec=codec)


def add_rollout(made: Writer, rollout: Rollout) -> None:
    """Write one episode whose frames were kept."""
    for frame in rollout.frames:
        values: dict[str, Any] = {
            f"observation.images.{name}": image for name, image in frame.seen.images.items()
        }
        if "observation.state" in made.features:
            values["observation.state"] = frame.seen.state
        values["action"] = frame.action
        values["next.reward"] = np.float32(frame.reward)
        values["next.success"] = np.bool_(frame.success)
        made.add_frame(values)
    made.add_episode(rollout.instruction)


def collect(
    workers: EnvPool,
    made: Writer,
    episodes: int,
    *,
    seed: int = 0,
    noise: float = 0.1,
    post_success_steps: int = 4,
    keep_every: int | None = None,
    on_rollout: Callable[[Rollout], None] = lambda _: None,
) -> CollectionSummary:
    """Let the expert play seeds from `seed` on, and write its successes until there are enough.

    Resumes a collection with the same settings. `keep_every`: save after so many episodes, and the
    complete ones at Ctrl-C; without it a collection is saved atomically. `on_rollout` is called
    after every attempt. Raises WamkitError if the expert fails too often.
    """
    if not 0 <= noise < math.inf:
        raise WamkitError(f"a noise of {noise}", "a finite number from 0 on: --noise 0.1")
    asked = CollectionConfig(workers.config, seed, noise, post_success_steps)
    entry, unsaved = asked.begin(made.notes), 0
    limit = PATIENCE * episodes + 10
    expect_seed(seed, room=limit)
    seeds = range(seed + entry["attempts"], seed + limit)
    rollouts = play(
        workers, seeds, "expert", noise=noise, post_success_steps=post_success_steps, keep=True
    )
    try:
        while entry["episodes"] < episodes:
            if (rollout := next(rollouts, None)) is None:
                raise WamkitError(
                    f"the expert solved {entry['episodes']} of {entry['attempts']} attempts, and "
                    f"{episodes} episodes were wanted",
                    "lower --noise, or choose another task",
                )
            with _defer_interrupts():
                if rollout.success:
                    add_rollout(made, rollout)
                    entry["episodes"] += 1
                    entry["frames"] += len(rollout.frames)
                    unsaved += 1
                entry["attempts"] += 1
                on_rollout(rollout)
                if unsaved == keep_every and entry["episodes"] < episodes:
                    made.keep()
                    entry, unsaved = asked.begin(made.notes), 0
    except KeyboardInterrupt:  # between episodes: all that were added are whole
        if keep_every and entry["episodes"]:
            made.keep()
        raise
    last = seed + entry["attempts"] - 1
    return CollectionSummary(entry["episodes"], entry["frames"], entry["attempts"], (seed, last))


@contextmanager
def _defer_interrupts() -> Iterator[None]:
    """Defer Ctrl-C to the end of the block. Only the main thread receives it at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    signals: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: signals.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if signals:
        raise KeyboardInterrupt
