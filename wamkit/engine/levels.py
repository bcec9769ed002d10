"""Noise levels of tokens: entries of a run's table, the same for all samples, or tensors.

A sampling run knows its levels beforehand. So in use a level is two plain values, the table of the
run and an index: what a network makes of a table is computed once, and a step changes the index
only. In training every sample has levels of its own, and a tensor holds them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import prod
from typing import NamedTuple, overload

import torch
from torch import Tensor

from .device import constant

MAX_LEVELS = 64
"""Most levels in one table. Its modulation takes as many times the memory of one level's (of the
published networks the most is 9 MB, 60 blocks of 12 x 3072 float32 values)."""

MAX_STEPS = 4096
"""Combinations of steps of the runs in one stream, whose level indices are made at once."""


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


@dataclass(frozen=True)
class PrefixLevels:
    """Noise levels of a run for tokens of which some are clean: those of a prefix.

    Which ones is a tensor next to the table of the run: another prefix changes the index alone.
    """

    levels: tuple[Level, ...]  # of n tokens without the prefix, or one that they share
    clean: Tensor  # [B, n] bool: tokens at level 0


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


def sigma_tensor(levels: Levels | PrefixLevels, batch: int, device: torch.device) -> Tensor:
    """Levels of n frames or tokens as a tensor [B, n] float32."""
    if isinstance(levels, Tensor):
        return levels
    if isinstance(levels, PrefixLevels):
        sigma = sigma_tensor(levels.levels, batch, device).expand(levels.clean.shape)
        return sigma.masked_fill(levels.clean, 0.0)
    values = constant(tuple(level.sigma for level in levels), torch.float32, device)
    return values.expand(batch, -1)


@overload
def expand_levels(level: Level | Levels, count: int) -> Levels: ...
@overload
def expand_levels(level: Level | Levels | PrefixLevels, count: int) -> Levels | PrefixLevels: ...
def expand_levels(level: Level | Levels | PrefixLevels, count: int) -> Levels | PrefixLevels:
    """A level for each of `count` frames or tokens, if they share one; their own stay."""
    if isinstance(level, PrefixLevels):
        own = level.clean.shape[1] > 1
        return level if own else PrefixLevels(level.levels, level.clean.expand(-1, count))
    if isinstance(level, Tensor):
        own = level.ndim == 2 and level.shape[1] > 1
        return level if own else level.reshape(-1, 1).expand(-1, count)
    if isinstance(level, Level):
        return (level,) * count
    return level * count if len(level) == 1 else level


@overload
def slice_levels(level: Level | Levels, places: slice | list[int]) -> Level | Levels: ...
@overload
def slice_levels(
    level: Level | Levels | PrefixLevels, places: slice | list[int]
) -> Level | Levels | PrefixLevels: ...
def slice_levels(
    level: Level | Levels | PrefixLevels, places: slice | list[int]
) -> Level | Levels | PrefixLevels:
    """The levels of some of the tokens; one that all tokens share stays as it is."""
    if isinstance(level, PrefixLevels):
        found = slice_levels(level.levels, places)
        return PrefixLevels(found, level.clean[:, places])  # type: ignore[arg-type]
    if isinstance(level, Tensor):
        return level[:, places] if level.ndim == 2 and level.shape[1] > 1 else level
    if isinstance(level, Level) or len(level) == 1:
        return level
    return level[places] if isinstance(places, slice) else tuple(level[i] for i in places)


def join_levels(parts: Sequence[Levels | PrefixLevels], batch: int, device: torch.device) -> Levels:
    """Levels of several rows of frames or tokens as those of one row."""
    if all(isinstance(part, tuple) for part in parts):
        return tuple(level for part in parts for level in part)  # type: ignore[union-attr]
    return torch.cat([sigma_tensor(part, batch, device) for part in parts], 1)


class LevelTable(NamedTuple):
    """Noise levels of tokens in a row as a table and an index."""

    sigmas: Tensor  # [R] float32
    index: Tensor  # type: ignore[assignment]  # [B or 1, G] of groups of S / G tokens
    key: tuple[float, ...] | None  # the table where it is the same for all samples
    view: Tensor | None = None  # [R] the camera view of each row; None if levels have none

    def by_view(self, views: Sequence[int | None]) -> LevelTable:
        """The same levels with the view of each of G groups of tokens; None counts as view 0."""
        groups, device = [view or 0 for view in views], self.index.device
        count = max(groups) + 1
        place = constant(tuple(groups), torch.long, device)
        index = self.index * count + place  # [B or 1, G]
        rows = tuple(range(count)) * len(self.sigmas)
        every = constant(rows, torch.long, device)  # [R * count]
        if self.key is None:
            return LevelTable(self.sigmas.repeat_interleave(count), index, None, every)
        table = tuple(sigma for sigma in self.key for _ in range(count))
        sigmas = constant(table, torch.float32, device)  # made once, as those of `of`
        return LevelTable(sigmas, index, (*self.key, -float(count)), every)

    @staticmethod
    def of(
        parts: Sequence[tuple[Level | Levels | PrefixLevels, int]],
        batch: int,
        device: torch.device,
    ) -> LevelTable:
        """Of tokens in a row, with a level for each so many of them, or that many levels."""
        if not any(isinstance(level, Tensor) for level, _ in parts):
            if any(isinstance(level, PrefixLevels) for level, _ in parts):
                return _with_prefix(parts, device)
            levels = [
                each
                for level, count in parts
                for each in expand_levels(level, count)  # type: ignore[union-attr]
            ]
            if all(level == levels[0] for level, _ in parts):
                del levels[1:]  # one group
            table, index = _index(levels, device)  # type: ignore[arg-type]
            return LevelTable(constant(table, torch.float32, device), index, table)
        columns: list[Tensor] = []
        places: list[int] = []
        for level, count in parts:
            given = (level,) if isinstance(level, Level) else level
            sigma = sigma_tensor(given, batch, device)
            start = sum(column.shape[1] for column in columns)
            columns.append(sigma)
            each = range(start, start + count) if sigma.shape[1] > 1 else [start] * count
            places += each
        table_ = torch.cat(columns, 1)  # [B, columns]
        count = table_.shape[1]
        chosen = places[:1] if len(set(places)) == 1 else places
        rows = torch.arange(batch, device=device)[:, None] * count
        index_ = rows + constant(tuple(chosen), torch.long, device)
        return LevelTable(table_.flatten(), index_, None)


def _with_prefix(
    parts: Sequence[tuple[Level | Levels | PrefixLevels, int]], device: torch.device
) -> LevelTable:
    """Levels of tokens of which some are clean: the table of the run, and an index [B, S]."""
    levels: list[Level] = []
    clean: list[Tensor] = []
    rows = next(x.clean.shape[0] for x, _ in parts if isinstance(x, PrefixLevels))
    none = constant((False,), torch.bool, device)
    for level, count in parts:
        prefix = level if isinstance(level, PrefixLevels) else None
        levels += expand_levels(level if prefix is None else prefix.levels, count)  # type: ignore[arg-type]
        clean.append((none if prefix is None else prefix.clean).expand(rows, count))
    table, index = _index([*levels, CLEAN], device)
    index = index.expand(1, len(levels) + 1)
    index = torch.where(torch.cat(clean, 1), index[:, -1:], index[:, :-1])
    return LevelTable(constant(table, torch.float32, device), index, table)


def _index(levels: Sequence[Level], device: torch.device) -> tuple[tuple[float, ...], Tensor]:
    """Levels of groups of tokens as one table, and the entry of each group [1, G].

    Entries of every step of the runs are sent to the device at once, and a step is cut from them.
    """
    table, index = index_levels(levels)
    if len(index) == 1:
        every = constant(tuple(range(len(table))), torch.long, device)
        return table, every[None, index[0] : index[0] + 1]
    starts: dict[tuple[float, ...], int] = {}
    for level, entry in zip(levels, index, strict=True):
        starts.setdefault(level.table, entry - level.index)
    runs = tuple(starts)  # of which each group has an entry
    layout = tuple((starts[level.table], runs.index(level.table)) for level in levels)
    places = {level.table: level.index for level in levels}
    sizes = tuple(len(run) for run in runs)
    together = all(level.index == places[level.table] for level in levels)
    if not together or prod(sizes) > MAX_STEPS:
        return table, constant(index, torch.long, device)[None]
    every = constant(_entries(layout, sizes), torch.long, device).view(-1, len(index))
    row = 0
    for run, size in zip(runs, sizes, strict=True):
        row = row * size + places[run]
    return table, every[row : row + 1]


@lru_cache
def _entries(layout: tuple[tuple[int, int], ...], sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The entry of each group at every combination of steps of the runs, row after row."""
    steps = product(*(range(size) for size in sizes))
    return tuple(start + at[run] for at in steps for start, run in layout)
