"""Detect repeated passes of a network, so that their cost is counted only once.

Every step of a sampling loop runs the network with the same shapes. The first pass of a
kind also fills caches (`wamkit.engine.passes`, `wamkit.engine.kv_cache`), the
second is like all others. A pass repeats one before if it has the same shapes, follows a
pass of the same kind as that one did, looks at the very same cache, text and levels, and if the
same of its tensors are new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor

from ..engine.kv_cache import KVCache
from ..engine.levels import Level
from ..interfaces.types import ModelInputs, ModelOutput


class RepeatedPassCache:
    """A model that runs each kind of pass until it repeats, and then returns the cached output.

    `model` is as in `wamkit.interfaces.paradigm`. `repeated` is called for each pass that is not
    run, with the number of the pass that it repeats; `model` was called for those that are run.
    """

    def __init__(self, model: Callable[..., ModelOutput], repeated: Callable[[int], None]) -> None:
        self._model, self._repeated = model, repeated
        self._known: dict[Hashable, tuple[int, ModelOutput]] = {}
        self._last: dict[Hashable, _Pass] = {}
        self._before: Hashable = None
        self._run = 0

    def __call__(
        self, inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        """One pass, run or repeated."""
        found = _Pass([], [cache], [cache])
        found.add(inputs)
        kind: Hashable = (tuple(found.shapes), cache is None, tuple(sorted(keep)))
        last, before = self._last.get(kind), self._before
        self._last[kind], self._before = found, kind
        key: Hashable = None
        if (
            not keep
            and last is not None
            and _same_objects(last.cached_objects, found.cached_objects)
        ):
            fresh = tuple(a is b for a, b in zip(last.tensors, found.tensors, strict=True))
            key = kind, before, fresh
            if key in self._known:
                number, velocity = self._known[key]
                self._repeated(number)
                return velocity
        velocity = self._model(inputs, cache=cache, keep=keep)
        if key is not None and _keeps_nothing(velocity.cache):
            self._known[key] = self._run, velocity
        self._run += 1
        return velocity


@dataclass
class _Pass:
    """Inputs of a pass: shapes, cached objects, and all tensors."""

    shapes: list[Any]
    cached_objects: list[Any]
    tensors: list[Any]

    def add(self, x: Any) -> None:
        """Add `x` and its fields."""
        if isinstance(x, Tensor):
            self.shapes.append((x.shape, x.dtype))
            self.tensors.append(x)
        elif isinstance(x, Level):
            self.shapes.append(x.table)
            self.tensors.append(x)
        elif isinstance(x, list | tuple):
            self.shapes.append(len(x))
            for one in x:
                self.add(one)
        elif is_dataclass(x):
            self.shapes.append(type(x))
            for field in fields(x):
                self.add(getattr(x, field.name))
        elif x is None or isinstance(x, str | int | float):
            self.shapes.append(x)
        else:  # memory of a paradigm
            self.shapes.append(type(x))
            self.cached_objects.append(x)


def _keeps_nothing(cache: KVCache | None) -> bool:
    return cache is None or not (any(cache.layers) or any(cache.hidden))


def _same_objects(one: list[Any], other: list[Any]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
