"""Errors of sampled actions against recorded ones, by group, in units of their spread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..policy.policy import Policy
from .intervals import mean_interval


class ActionError:
    """Collects root-mean-square errors of action chunks, in units of each value's spread.

    The spread is the standard deviation of the recorded actions that are compared. So 1 is the
    error of an actor that always takes the mean action, and 0 is a perfect copy. Values that never
    change in the data are left out.
    """

    def __init__(self, policy: Policy) -> None:
        self._executed = policy.actions.executed
        names = [group.name for group in policy.spec.actions.groups for _ in range(group.size)]
        self._groups = [names[place] for place in self._executed]
        self._rows: list[tuple[int, Tensor, Tensor]] = []  # episode, errors [N, A], recorded

    def add(self, episodes: Sequence[int], chunk: Tensor, recorded: Tensor, valid: Tensor) -> None:
        """Compare chunks [B, N, A] with `recorded` [B, M, A], M >= N, where `valid` [B, M] bool."""
        recorded = recorded[:, : chunk.shape[1], self._executed].double()
        for row, episode in enumerate(episodes):
            kept = valid[row, : chunk.shape[1]]
            real = recorded[row][kept]
            self._rows.append((episode, (chunk[row].double()[kept] - real) ** 2, real))

    def summary(self) -> dict[str, Any]:
        """The error over all groups, and that of each: mean and 95 % interval over episodes."""
        every = np.concatenate([real.numpy() for _, _, real in self._rows])
        spread = every.std(0)
        moves = spread > 1e-9
        by_episode: dict[int, list[Any]] = defaultdict(list)
        for episode, squared, _ in self._rows:
            by_episode[episode].append(squared.numpy())
        scaled = [
            np.concatenate(found).mean(0)[moves] / spread[moves] ** 2
            for found in by_episode.values()
        ]
        groups = np.array(self._groups)[moves]
        found = {}
        for name in dict.fromkeys(groups.tolist()):
            values = [float(np.sqrt(row[groups == name].mean())) for row in scaled]
            found[name] = mean_interval(values)
        whole = [float(np.sqrt(row.mean())) for row in scaled] if moves.any() else [0.0]
        return {"rmse": mean_interval(whole), "groups": found}
