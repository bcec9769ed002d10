"""Episodes into a LeRobot data set: what was seen, what was done, what it was worth.

What was asked for and how far it came stands in the notes of the data set, so that a collection
that was interrupted, or that was too small, is gone on with: no seed is tried twice.
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

from ..config.mistakes import explained
from ..config.parts import EnvironmentConfig
from ..config.robot import Section
from ..config.seeds import expect_seed
from ..data import Feature, Writer
from ..data.schema import MOST_EPISODES
from ..data.writer import notes
from ..errors import WamkitError
from .env_pool import Workers
from .environment import Robot
from .episodes import Attempt
from .rollout import play

PATIENCE = 4
"""Attempts for each episode that is wanted, before an expert is given up."""
NOTE = "collected"
"""Where the notes of a data set tell of its collections."""


@dataclass(frozen=True)
class Collected:
    """What became of a collection, in all its sessions."""

    episodes: int
    frames: int
    attempts: int
    seeds: tuple[int, int]  # the first and the last that were tried


class _Entry(Section):
    """What the notes of a data set say of one collection."""

    environment: dict[str, Any]
    seed: int
    noise: float
    linger: int
    episodes: int = Field(ge=0, le=MOST_EPISODES)
    frames: int = Field(ge=0, lt=10**12)
    attempts: int = Field(ge=0, lt=10**12)

    @model_validator(mode="after")
    def _counted(self) -> _Entry:
        if not self.episodes <= min(self.frames, self.attempts):
            raise ValueError("there are more episodes than frames or attempts")
        return self


class _Notes(Section):
    collected: list[_Entry]


@dataclass(frozen=True)
class Asked:
    """What decides the episodes of a collection, but for how many they are."""

    environment: EnvironmentConfig
    seed: int = 0  # of the first attempt; then one by one
    noise: float = 0.1
    linger: int = 4  # actions after the first success

    def entry(self, told: dict[str, Any]) -> dict[str, Any] | None:
        """What the notes of a data set say of this collection, or None if it was not begun."""
        mine = self._plain()
        found: list[dict[str, Any]] = told.get(NOTE, [])
        try:
            _Notes.model_validate({NOTE: found}, strict=True)
        except ValidationError as error:
            faults = "; ".join(str(c) for c in explained(error, "", _Notes)[:8])
            raise WamkitError(
                f"the notes of the data set on what was collected are damaged: {faults}",
                "remove meta/wamkit.json, and add to the data set with --add",
            ) from None
        return next((e for e in found if all(e[k] == v for k, v in mine.items())), None)

    def kept(self, folder: Path) -> int:
        """Episodes of this collection that are in the data set in a folder."""
        entry = self.entry(notes(folder))
        return entry["episodes"] if entry else 0

    def begin(self, told: dict[str, Any]) -> dict[str, Any]:
        """The entry of this collection among the notes, a new one if there is none."""
        if (entry := self.entry(told)) is None:
            entry = {**self._plain(), "episodes": 0, "frames": 0, "attempts": 0}
            told.setdefault(NOTE, []).append(entry)
        return entry

    def _plain(self) -> dict[str, Any]:
        environment = self.environment.model_dump(mode="json")
        numbers = {"seed": self.seed, "noise": self.noise, "linger": self.linger}
        return {"environment": environment, **numbers}


def writer(
    folder: Path, robot: Robot, pictures: Literal["video", "image"], codec: str | None = None
) -> Writer:
    """A data set for what the robot sees and does, under LeRobot's names."""
    features = {
        f"observation.images.{name}": Feature(pictures, (*size, 3))
        for name, size in robot.cameras.items()
    }
    if robot.state:
        names = list(robot.state)
        features["observation.state"] = Feature("float32", (len(names),), names)
    features["action"] = Feature("float32", (len(robot.actions),), list(robot.actions))
    features["next.reward"] = Feature("float32", (1,))
    features["next.success"] = Feature("bool", (1,))
    return Writer(folder, robot.control_hz, features, robot.kind, codec=codec)


def add(made: Writer, attempt: Attempt) -> None:
    """Write one episode whose frames were kept."""
    for frame in attempt.frames:
        values: dict[str, Any] = {
            f"observation.images.{name}": picture for name, picture in frame.seen.pictures.items()
        }
        if "observation.state" in made.features:
            values["observation.state"] = frame.seen.state
        values["action"] = frame.action
        values["next.reward"] = np.float32(frame.reward)
        values["next.success"] = np.bool_(frame.success)
        made.add_frame(values)
    made.add_episode(attempt.instruction)


def collect(
    workers: Workers,
    made: Writer,
    episodes: int,
    *,
    seed: int = 0,
    noise: float = 0.1,
    linger: int = 4,
    keep_every: int | None = None,
    told: Callable[[Attempt], None] = lambda _: None,
) -> Collected:
    """Let the expert play seeds from `seed` on, and write its successes until there are enough.

    Goes on where a collection with the same settings stopped. `keep_every`: save after so many
    episodes, and those that are whole at Ctrl-C; without it a collection is saved whole or not at
    all. `told` hears of every attempt. Raises WamkitError if the expert fails too often.
    """
    if not 0 <= noise < math.inf:
        raise WamkitError(f"a noise of {noise}", "a finite number from 0 on: --noise 0.1")
    asked = Asked(workers.config, seed, noise, linger)
    entry, unsaved = asked.begin(made.notes), 0
    limit = PATIENCE * episodes + 10
    expect_seed(seed, room=limit)
    seeds = range(seed + entry["attempts"], seed + limit)
    attempts = play(workers, seeds, "expert", noise=noise, linger=linger, keep=True)
    try:
        while entry["episodes"] < episodes:
            if (attempt := next(attempts, None)) is None:
                raise WamkitError(
                    f"the expert solved {entry['episodes']} of {entry['attempts']} attempts, and "
                    f"{episodes} episodes were wanted",
                    "lower --noise, or choose another task",
                )
            with _uninterrupted():
                if attempt.success:
                    add(made, attempt)
                    entry["episodes"] += 1
                    entry["frames"] += len(attempt.frames)
                    unsaved += 1
                entry["attempts"] += 1
                told(attempt)
                if unsaved == keep_every and entry["episodes"] < episodes:
                    made.keep()
                    entry, unsaved = asked.begin(made.notes), 0
    except KeyboardInterrupt:  # between episodes: all that were added are whole
        if keep_every and entry["episodes"]:
            made.keep()
        raise
    last = seed + entry["attempts"] - 1
    return Collected(entry["episodes"], entry["frames"], entry["attempts"], (seed, last))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C within is heard at the end. Only the main thread hears it at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if heard:
        raise KeyboardInterrupt
