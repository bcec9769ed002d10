"""Convert demonstrations in a benchmark's own format into a LeRobot data set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..config.parts import EnvironmentConfig
from ..data.instructions import expect_instruction
from ..errors import WamkitError
from ..files.paths import expand_home
from .environment import Robot
from .episodes import Rollout
from .record import add_rollout, open_dataset


@dataclass(frozen=True)
class Demonstrations:
    """The content of a file: the robot, and whole episodes with their frames."""

    robot: Robot
    rollouts: Iterator[Rollout]


@dataclass(frozen=True)
class ConversionSummary:
    """Totals of a conversion."""

    episodes: int
    frames: int
    instructions: tuple[str, ...]


def convert(
    config: EnvironmentConfig,
    files: Sequence[Path],
    out: Path,
    image_format: Literal["video", "image"] = "video",
    codec: str | None = None,
    on_rollout: Callable[[Rollout], None] = lambda _: None,
) -> ConversionSummary:
    """Write the demonstrations in `files` to a new data set in `out`, all of them or none.

    Raises WamkitError if the environment has no format of its own, `out` is not empty, or a file is
    damaged or of another robot than the first.
    """
    if type(config).open_demonstrations is EnvironmentConfig.open_demonstrations:
        raise WamkitError(
            f"environment {config.name} has no format of demonstrations that could be converted",
            "its scripted expert records them: wamkit collect",
        )
    out = expand_home(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise WamkitError(f"{out} is there already", "choose another folder")
    if not files:
        raise WamkitError("no file to convert", f"wamkit data convert {config.name} FILE --out DIR")
    demonstrations = [config.open_demonstrations(file) for file in files]
    robot = demonstrations[0].robot
    if others := [
        str(f) for f, one in zip(files, demonstrations, strict=True) if one.robot != robot
    ]:
        raise WamkitError(
            f"{', '.join(others)}: not of the same robot and image size as {files[0]}",
            "convert them into a data set of their own",
        )
    episodes, frames, instructions = 0, 0, dict[str, None]()
    with open_dataset(out, robot, image_format, codec) as made:
        for file, one in zip(files, demonstrations, strict=True):
            for rollout in one.rollouts:
                _expect_instruction(rollout, file)
                add_rollout(made, rollout)
                episodes, frames = episodes + 1, frames + len(rollout.frames)
                instructions[rollout.instruction] = None
                on_rollout(rollout)
    return ConversionSummary(episodes, frames, tuple(instructions))


def _expect_instruction(rollout: Rollout, file: Path) -> None:
    try:
        expect_instruction(rollout.instruction, f"{file}: the task")
    except ValueError as error:
        raise WamkitError(
            str(error), 'give one, where the environment takes it: --env-arg instruction="..."'
        ) from None
