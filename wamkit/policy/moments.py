"""When an observation was made, counted in executed actions: late, dropped and repeated ones.

Time is counted in executed actions because a controller that waits, or a camera that is slow,
moves a clock and not the robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..errors import WamkitError

Arrival = Literal["first", "next", "early", "dropped", "repeated", "late", "reset"]


@dataclass(frozen=True)
class Moment:
    """The moment of an observation: how many actions of the episode had been executed."""

    step: int
    """Actions executed since the episode began, at its newest image."""
    episode: int | str = 0
    """Which episode it is of; another one than before is a reset of the robot."""


def arrival(moment: Moment, last: Moment | None, steps: int | None) -> Arrival:
    """How an observation comes after the last one.

    Args:
        moment: Of the observation.
        last: Of the newest one so far; None for none.
        steps: Actions that must have been executed in between; None for any number.

    Returns:
        "first" of all, or of another episode "reset"; "next" as expected, "early" or "dropped" if
        fewer or more actions were executed, so that images are missing; "repeated" if it is the
        last one again; "late" if a newer one came before it.
    """
    if last is None:
        return "first"
    if moment.episode != last.episode:
        return "reset"
    moved = moment.step - last.step
    if moved <= 0:
        return "late" if moved else "repeated"
    if steps is None or moved == steps:
        return "next"
    return "early" if moved < steps else "dropped"


def refuse_arrival(found: Arrival, moment: Moment, last: Moment, steps: int | None) -> None:
    """Raise WamkitError for an observation that is late, or that an episode cannot go on with.

    `steps` as of `arrival`: where any number may have been executed, only late ones are refused.
    """
    step, before = moment.step, last.step
    if found == "late":
        raise WamkitError(
            f"a late observation: of step {step}, and that of step {before} was seen already",
            "drop it, and pass the newest one",
        )
    if steps is None or found in ("first", "next", "reset"):
        return
    if found == "repeated":
        raise WamkitError(
            f"the observation of step {step} again, which is in the memory of the episode",
            "pass the next one, or none to go on from what was imagined",
        )
    what = "a dropped frame" if found == "dropped" else "an early observation"
    raise WamkitError(
        f"{what}: {step - before} actions were executed since step {before}, and the memory of "
        f"the episode waits for the images of {steps}",
        "pass all images since then, and the executed actions; or begin a new episode (reset)",
    )


def expect_episode(asked: int, now: int, who: str) -> None:
    """Raise WamkitError if a chunk is of the episode before: `who` was reset meanwhile."""
    if asked != now:
        raise WamkitError(
            f"the {who} was reset while this chunk was computed; it is of the episode before",
            "discard it, and act on the first observation of the new episode",
        )
