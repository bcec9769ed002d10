"""Several futures of one moment: an episode is begun again from its seed and replayed up to there.

That works in every environment whose episodes the seed alone determines, and that it does is
checked at the moment where the futures part.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from .env_pool import EnvPool, Progress
from .environment import EnvObservation

SAME = 1e-5  # of a state, relative to its size


@dataclass(frozen=True)
class Branch:
    """What one sequence of actions led to."""

    seen: Mapping[int, EnvObservation]  # by the number of actions since the moment
    rewards: tuple[float, ...]  # one for each action; of those after the end, that of the last
    success: bool


def branch(
    workers: EnvPool,
    seed: int,
    before: NDArray[np.float32],
    chunks: Sequence[NDArray[np.float32]],
    moments: Sequence[int],
    expected: EnvObservation,
) -> list[Branch]:
    """Execute each of `chunks` [N, A] after the actions `before` [T, A] of the episode of a seed.

    Observed are the `moments`, after so many actions; after the end of an episode, its last
    observation. Raises WamkitError if the replayed episode is not at `expected` after `before`.
    """
    found: list[Branch] = []
    size = len(workers)
    for start in range(0, len(chunks), size):
        group = dict(enumerate(chunks[start : start + size]))
        for place in group:
            workers.ask(place, "reset", seed)
        seen = {place: workers.answer(place) for place in group}
        if len(before):
            for place in group:
                workers.ask(place, "advance", before, len(before))
            for place in group:
                made: Progress = workers.answer(place)
                if made.over or len(before) not in made.observations:
                    raise _differs(workers, seed, "it ends earlier")
                seen[place] = made.observations[len(before)]
        for place, chunk in group.items():
            _expect_same(workers, seed, seen[place], expected)
            workers.ask(place, "advance", chunk, 1)
        found += [_branch(workers.answer(place), chunk, moments) for place, chunk in group.items()]
    return found


def _branch(made: Progress, chunk: NDArray[np.float32], moments: Sequence[int]) -> Branch:
    done = len(made.steps)
    rewards = [step.reward for step in made.steps]
    rewards += rewards[-1:] * (len(chunk) - done)
    seen = {moment: made.observations[min(moment, done)] for moment in moments}
    return Branch(seen, tuple(rewards), any(step.success for step in made.steps))


def _expect_same(
    workers: EnvPool, seed: int, seen: EnvObservation, expected: EnvObservation
) -> None:
    off = float(np.abs(seen.state - expected.state).max(initial=0.0))
    if off > SAME * (1 + float(np.abs(expected.state).max(initial=0.0))):
        raise _differs(workers, seed, f"a value of its state is off by {off:.3g}")
    for name, image in expected.images.items():
        far = float(np.abs(seen.images[name].astype(int) - image).mean())
        if far > 1:
            raise _differs(workers, seed, f"camera {name!r} is off by {far:.3g} of 255 a pixel")


def _differs(workers: EnvPool, seed: int, how: str) -> WamkitError:
    return WamkitError(
        f"environment {workers.config.name} does not repeat the episode of seed {seed} when the "
        f"same actions are executed: {how}",
        "futures of one state need an environment that its seed alone determines; see "
        "`Environment.reset`",
    )
