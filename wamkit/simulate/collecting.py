"""Episodes into a LeRobot data set: what was seen, what was done, what it was worth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..data import Feature, Writer
from ..errors import WamkitError
from .environment import Robot
from .episodes import Attempt
from .hosting import Workers
from .rolling import play

PATIENCE = 4
"""Attempts for each episode that is wanted, before an expert is given up."""


@dataclass(frozen=True)
class Collected:
    """What became of a collection."""

    episodes: int
    frames: int
    attempts: int
    seeds: tuple[int, int]  # the first and the last that were tried


def writer(folder: Path, robot: Robot, pictures: Literal["video", "image"]) -> Writer:
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
    return Writer(folder, robot.hertz, features, robot.kind)


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
    told: Callable[[Attempt], None] = lambda _: None,
) -> Collected:
    """Let the expert play seeds from `seed` on, and write its successes until there are enough.

    `told` hears of every attempt. Raises WamkitError if the expert fails too often.
    """
    written = frames = attempts = 0
    limit = PATIENCE * episodes + 10
    seeds = range(seed, seed + limit)
    for attempt in play(workers, seeds, "expert", noise=noise, linger=linger, keep=True):
        attempts += 1
        told(attempt)
        if attempt.success:
            add(made, attempt)
            written, frames = written + 1, frames + len(attempt.frames)
        if written == episodes:
            return Collected(written, frames, attempts, (seed, seed + attempts - 1))
    raise WamkitError(
        f"the expert solved {written} of {attempts} attempts, and {episodes} episodes were wanted",
        "lower --noise, or choose another task",
    )
