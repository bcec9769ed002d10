"""What is computed once for a chunk: what stays the same, and what follows from noise levels."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Value = TypeVar("Value")
Make = Callable[[Tensor], tuple[Tensor, ...]]
"""What a network makes of noise levels [B, G]: tensors [B, G, ...]."""

AT_ONCE = 64
"""Levels of a run that are looked at together. Their tables take as many times what a network makes
of one level (of the published ones the most is 9 MB, 60 blocks of 12 x 3072 float32 numbers); a
longer run makes them anew every so many steps, in the place of the last ones."""


class Memo:
    """What stays the same over the steps of a chunk, or for as long as a text lasts, computed once.

    Values are kept only while gradients are off: in training every pass computes its own. A copy
    made by `dataclasses.replace` starts with an empty memo.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Any, Any]] = {}

    def once(self, key: Hashable, make: Callable[[], Value], *, of: object = None) -> Value:
        """`make()` the first time, the same value afterwards, for as long as `of` is the same."""
        if torch.is_grad_enabled():
            return make()
        kept = self._kept.get(key)
        if kept is None or kept[0] is not of:
            kept = self._kept[key] = (of, make())
        return kept[1]  # type: ignore[no-any-return]

    def values(self) -> dict[Hashable, Any]:
        """What is kept, by key."""
        return {key: value for key, (_, value) in self._kept.items()}


_directly: ContextVar[bool] = ContextVar("directly", default=False)


@contextmanager
def directly() -> Iterator[None]:
    """Within, every block makes of a noise level what it needs when it runs: nothing is looked up.

    For networks in pieces, whose blocks have their weights only while they run.
    """
    token = _directly.set(True)
    try:
        yield
    finally:
        _directly.reset(token)


@dataclass(frozen=True)
class Rung:
    """A noise level as one of those that a run passes, all of which are known at its start.

    So what a network makes of a level is made for all of them at once, and picked in each step.
    """

    levels: Tensor  # [R] float32, the same for all samples
    place: int  # which of them it is
    sigma: Tensor  # the level as the part has it: [B], [B, N] or [B, T]

    @staticmethod
    def fixed(level: float, sigma: Tensor) -> Rung:
        """The only rung of a run that stays at `level`, where the part has it as `sigma`."""
        return Rung(_alone(level, sigma.device, torch.get_default_dtype()), 0, sigma)

    def of(self, sigma: Tensor) -> Rung | None:
        """This rung if `sigma` is the very tensor it was made for: another has left the ladder."""
        return self if sigma is self.sigma and not _directly.get() else None

    def holding(self, sigma: Tensor) -> Rung:
        """The same rung where the part has its level as `sigma`."""
        return replace(self, sigma=sigma)

    def is_like(self, other: Any) -> bool:
        """Whether the other is the same rung of the same ladder, whoever has it."""
        same = isinstance(other, Rung) and other.levels is self.levels
        return same and other.place == self.place

    def once(self, memo: Memo, key: Hashable, make: Make) -> tuple[Tensor, ...]:
        """What `make` says of this level, from one call for all levels [R, 1] as for R samples.

        Each tensor that `make` gives has R rows; of each, the row of this level [1, ...]. Of a long
        run the levels are looked at AT_ONCE at a time.
        """
        if torch.is_grad_enabled():
            return make(self.levels[self.place : self.place + 1, None])
        levels, place = self.levels, self.place
        if len(levels) > AT_ONCE:
            parts = memo.once(("levels", id(levels)), lambda: levels.split(AT_ONCE), of=levels)
            levels, place = parts[place // AT_ONCE], place % AT_ONCE
        rows = memo.once(
            (key, id(self.levels)),
            lambda: list(zip(*(x.split(1) for x in make(levels[:, None])), strict=True)),
            of=levels,
        )
        return rows[place]


@cache  # none is forgotten: what was recorded reads it where it lies
def _alone(level: float, device: torch.device, dtype: torch.dtype) -> Tensor:
    with torch.inference_mode(False):
        return torch.full((1,), level, dtype=dtype, device=device)


@dataclass(frozen=True)
class Given:
    """Noise levels that nothing is known about but that they stay as they are."""

    sigma: Tensor  # [B, G]
    source: Tensor  # what it was cut from: tells whether it is still the same
    start: int = 0  # where

    def is_like(self, other: Any) -> bool:
        """Never: frames beside each other may have different levels."""
        return False

    def once(self, memo: Memo, key: Hashable, make: Make) -> tuple[Tensor, ...]:
        """What `make` says of these levels, [B, G, ...] each."""
        key = key, self.start, self.sigma.shape[1]
        return memo.once(key, lambda: make(self.sigma), of=self.source)


@dataclass(frozen=True)
class Rungs:
    """Noise levels of frames or tokens in a row, all of which are known at the start of a chunk.

    Each part is a level of a run that so many share, or levels that stay, one for each.
    """

    parts: tuple[tuple[Rung | Given, int], ...]
    sigma: Tensor  # [B, S] the levels themselves

    @staticmethod
    def given(sigma: Tensor, lengths: Iterable[int]) -> Rungs:
        """Levels [B, S] that stay as they are, cut into parts of so many."""
        parts, start = [], 0
        for piece in sigma.split(list(lengths), 1):
            parts.append((Given(piece, sigma, start), piece.shape[1]))
            start += piece.shape[1]
        return Rungs(tuple(parts), sigma)

    @staticmethod
    def row(parts: Sequence[tuple[Rung | Given | None, int]], sigma: Tensor) -> Rungs | None:
        """Rungs of parts in a row, unless one of them is not known."""
        known = tuple([(level, count) for level, count in parts if level is not None])
        return Rungs(known, sigma) if len(known) == len(parts) and not _directly.get() else None

    def of(self, sigma: Tensor) -> Rungs | None:
        """These if `sigma` is the very tensor they were made for."""
        return self if sigma is self.sigma and not _directly.get() else None

    def kept(self, keep: Sequence[bool], sigma: Tensor) -> Rungs:
        """Those to be kept, of which `keep` [S] tells; none of the parts is kept by half."""
        parts = [
            part for part, start in zip(self.parts, self._starts(), strict=True) if keep[start]
        ]
        return Rungs(tuple(parts), sigma)

    def changed(self, change: Callable[[Rung | Given, int], Rung | Given]) -> Rungs:
        """With `change(level, place of its first)` in place of each level."""
        parts = [
            (change(level, start), count)
            for (level, count), start in zip(self.parts, self._starts(), strict=True)
        ]
        return replace(self, parts=tuple(parts))

    def _starts(self) -> list[int]:
        """The place of each part's first."""
        ends = accumulate([count for _, count in self.parts], initial=0)
        return list(ends)[:-1]

    def mapped(self, rows: Callable[[Tensor], Tensor], sigma: Tensor) -> Rungs:
        """The same for other samples, which `rows` takes from a tensor that has them."""
        parts = [
            (replace(level, sigma=rows(level.sigma)) if isinstance(level, Given) else level, count)
            for level, count in self.parts
        ]
        return Rungs(tuple(parts), sigma)

    def columns(self) -> list[tuple[Rung | Given, int]]:
        """The parts, where neighbors that share a level are one."""
        found: list[tuple[Rung | Given, int]] = []
        for level, count in self.parts:
            if found and level.is_like(found[-1][0]):
                found[-1] = level, found[-1][1] + count
            else:
                found.append((level, count))
        return found

    def once(
        self, memo: Memo, key: Hashable, make: Make
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        """What `make` says of each column, [1 or B, G, ...], and whose it is, as `of_levels`."""
        columns = self.columns()
        keys = [key if isinstance(x, Rung) else (key, i) for i, (x, _) in enumerate(columns)]
        found = [level.once(memo, k, make) for (level, _), k in zip(columns, keys, strict=True)]
        if len(found) == 1 and isinstance(columns[0][0], Rung):
            return found[0], None
        batch = max(len(x) for x, *_ in found)
        each = zip(*[[x.expand(batch, *x.shape[1:]) for x in row] for row in found], strict=True)
        counts = tuple([n if isinstance(level, Rung) else (1,) * n for level, n in columns])
        return tuple([torch.cat(x, 1) for x in each]), _owner(counts, self.sigma.device)


@cache
def _owner(counts: tuple[int | tuple[int, ...], ...], device: torch.device) -> Tensor | None:
    """Of each token in a row the number of its column [S]; None if each has its own."""
    lengths = [n for count in counts for n in ((count,) if isinstance(count, int) else count)]
    if set(lengths) == {1}:
        return None
    with torch.inference_mode(False):
        owners = [i for i, length in enumerate(lengths) for _ in range(length)]
        return torch.tensor(owners, device=device)


def of_level(
    memo: Memo, key: Hashable, make: Make, sigma: Tensor, rung: Rung | None
) -> tuple[Tensor, ...]:
    """What `make` says of noise levels `sigma` [B, G], with tensors [B, G, ...].

    Where all of them are one level of a run it is looked up: [1, 1, ...] for all alike.
    """
    return make(sigma) if rung is None else rung.once(memo, key, make)


def of_levels(
    memo: Memo, key: Hashable, make: Make, sigma: Tensor, rungs: Rungs | None
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """What `make` says of noise levels `sigma` [B, S]: tensors [B or 1, G, ...], a column a level.

    And the column of each of the S frames or tokens [S], for `spread`; None where each has its own,
    or all have the same. Looked up where `rungs` are known and gradients are off.
    """
    if rungs is None or torch.is_grad_enabled():
        return make(sigma), None
    return rungs.once(memo, key, make)


def spread(x: Tensor, owner: Tensor | None) -> Tensor:
    """Columns [B, G, ...] for each frame or token [B, S, ...], as `of_levels` tells whose is whose.

    One column for all stays one.
    """
    return x if owner is None else x.index_select(1, owner)


def stacked(blocks: Iterable[nn.Module], level: Tensor, rows: Callable[[Any], Tensor]) -> Tensor:
    """What `rows` says of each block, [R, G, ...], in a table [R, G, blocks, ...] for `own_rows`.

    It says it of `level` [R, G, D], which tells the shape of a table without blocks.
    The blocks learn their places in it. A table holds R times what a level makes of all blocks, R
    at most AT_ONCE.
    """
    found = []
    for place, block in enumerate(blocks):
        found.append(x := rows(block))
        block.__dict__["_row"] = place
        block.register_buffer("_row_of", _at(place, x.device), persistent=False)
    return torch.stack(found, 2) if found else level.new_empty(*level.shape[:2], 0)


def own_rows(block: nn.Module, table: Tensor, owner: Tensor | None = None) -> Tensor:
    """What a `stacked` table [B, G, blocks, ...] holds for a block, for each token [B, S, ...].

    Compiled code is the same for all blocks: it reads the place of a block from memory.
    """
    if torch.compiler.is_compiling():
        rows = table.index_select(2, block.get_buffer("_row_of")).squeeze(2)
    else:
        rows = table.select(2, block.__dict__["_row"])
    return spread(rows, owner)


@cache
def _at(place: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor([place], device=device)
