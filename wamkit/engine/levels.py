"""Noise levels of tokens: entries of a run's table, the same for all samples, or tensors.

A sampling run knows its levels beforehand. So in use a level is two plain values, the table of the
run and an index: what a network makes of a table is computed once, and a step changes the index
only. In training every sample has levels of its own, and a tensor holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .device import constant

MAX_LEVELS = 64
"""Most levels in one table. Its modulation takes as many times the memory of one level's (of the
published networks the most is 9 MB, 60 blocks of 12 x 3072 float32 values)."""


class Level(NamedTuple):
    """One noise level of a run, which all samples share."""

    table: tuple[float, ...]
    """Levels of the run, each in [0, 1]: 0 is data, 1 is noise."""
    index: int = 0  # type: ignore[assignment]
    """Which of them this is."""

    @property
    def sigma(self) -> float:
        """The level itself."""
        return self.table[self.index]


CLEAN = Level((0.0,))

Levels = tuple[Level, ...] | Tensor
"""Noise levels of n frames or tokens in a row: n `Level`s, or a tensor [B, n] float32."""


def level_of(sigma: Level | float) -> Level:
    """A number as a level of its own."""
    return sigma if isinstance(sigma, Level) else Level((float(sigma),))


def level_in_run(levels: Sequence[float], index: int) -> Level:
    """Entry `index` of a run of any length, in a table of at most MAX_LEVELS."""
    start = index // MAX_LEVELS * MAX_LEVELS
    return Level(tuple(levels[start : start + MAX_LEVELS]), index - start)


def index_levels(levels: Iterable[Level]) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Levels of groups of tokens as one table, and the index of each group in it.

    Different tables stand one after the other, equal ones once. So steps of a run change the index
    alone. One index stands for all groups if they agree.
    """
    starts: dict[tuple[float, ...], int] = {}
    table: tuple[float, ...] = ()
    index = []
    for level in levels:
        if level.table not in starts:
            starts[level.table] = len(table)
            table += level.table
        index.append(starts[level.table] + level.index)
    return table, tuple(index[:1] if len(set(index)) == 1 else index)


def sigma_tensor(levels: Levels, batch: int, device: torch.device) -> Tensor:
    """Levels of n frames or tokens as a tensor [B, n] float32."""
    if isinstance(levels, Tensor):
        return levels
    values = constant(tuple(level.sigma for level in levels), torch.float32, device)
    return values.expand(batch, -1)


def join_levels(parts: Sequence[Levels], batch: int, device: torch.device) -> Levels:
    """Levels of several rows of frames or tokens as those of one row."""
    if all(isinstance(part, tuple) for part in parts):
        return tuple(level for part in parts for level in part)  # type: ignore[union-attr]
    return torch.cat([sigma_tensor(part, batch, device) for part in parts], 1)
