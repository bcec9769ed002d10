"""What is computed once for a chunk: what stays the same, and what follows from noise levels."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


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


@dataclass(frozen=True)
class Rung:
    """A noise level as one of those that a run passes, all of which are known at its start.

    So what a network makes of a level is made for all of them at once, and picked in each step.
    """

    levels: Tensor  # [R] float32, the same for all samples
    place: int  # which of them it is
    sigma: Tensor  # the level as the part has it: [B], [B, N] or [B, T]

    def of(self, sigma: Tensor) -> Rung | None:
        """This rung if `sigma` is the very tensor it was made for: another has left the ladder."""
        return self if sigma is self.sigma else None

    def holding(self, sigma: Tensor) -> Rung:
        """The same rung where the part has its level as `sigma`."""
        return replace(self, sigma=sigma)

    def once(
        self, memo: Memo, key: Hashable, make: Callable[[Tensor], tuple[Tensor, ...]]
    ) -> tuple[Tensor, ...]:
        """What `make` says of this level, from one call for all levels [R, 1] as for R samples.

        Each tensor that `make` gives has R rows; of each, the row of this level [1, ...].
        """
        if torch.is_grad_enabled():
            return make(self.levels[self.place : self.place + 1, None])
        rows = memo.once(
            (key, id(self.levels)),
            lambda: list(zip(*(x.split(1) for x in make(self.levels[:, None])), strict=True)),
            of=self.levels,
        )
        return rows[self.place]


def of_level(
    memo: Memo,
    key: Hashable,
    make: Callable[[Tensor], tuple[Tensor, ...]],
    sigma: Tensor,
    rung: Rung | None,
) -> tuple[Tensor, ...]:
    """What `make` says of noise levels `sigma` [B, G], with tensors [B, G, ...].

    Where all of them are one level of a run it is looked up: [1, 1, ...] for all alike.
    """
    return make(sigma) if rung is None else rung.once(memo, key, make)
