"""What decides in a suite's evaluation: a policy here, or one behind a socket."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..policy_runner import PolicyRunner, RunningEpisode


class Actor(Protocol):
    """Chooses the next actions of episodes, each in a place of its own."""

    every: int
    """Actions from one look to the next."""

    def decide(
        self, active: Mapping[int, RunningEpisode], places: Sequence[int]
    ) -> dict[int, NDArray[np.float32]]:
        """place -> actions [K, A] in physical units.

        `places` are all places of the batch, whether an episode is active there or not.
        """

    def begin(self, place: int) -> None:
        """Another episode begins in a place."""


class PolicyActor:
    """A policy in this process. Its batches always have a row for each place.

    So the matrix products have the same shapes whichever episodes are active, and no episode
    depends on the others: rows without one repeat another.
    """

    def __init__(self, runner: PolicyRunner, instructions: Sequence[str]) -> None:
        """`instructions`: all that will come; texts are padded to the longest of them."""
        self.runner, self.every = runner, runner.every
        runner.steady = True
        runner.policy.text_embeddings.pad_for(instructions)
        runner.policy.prompt_state.forget()  # texts of other lengths

    def decide(
        self, active: Mapping[int, RunningEpisode], places: Sequence[int]
    ) -> dict[int, NDArray[np.float32]]:
        """As `Actor` has it."""
        if self.runner.policy.paradigm.stateful:  # one by one, each with its own memory
            places = list(active)
        spare = next(iter(active.values()))
        rows = [active[place] if place in active else replace(spare) for place in places]
        chunks = dict(zip(places, self.runner.sample_actions(rows), strict=True))
        return {place: chunks[place] for place in active}

    def begin(self, place: int) -> None:
        """Nothing: an episode brings its own state."""
