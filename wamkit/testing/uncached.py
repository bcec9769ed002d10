"""A model without caches: the reference that caches are tested against."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..engine.kv_cache import KVCache
from ..engine.levels import slice_levels
from ..interfaces.paradigm import Model
from ..interfaces.types import MODALITIES, Frames, ModelInputs, ModelOutput, NoisyVectors


class Replay(KVCache):
    """In place of keys and values: those inputs, which every pass computes again."""

    def __init__(self, inputs: ModelInputs) -> None:
        super().__init__([])
        self.inputs = inputs

    @property
    def roles(self) -> frozenset[str]:
        """The roles that would be kept."""
        return self.inputs.roles

    def __or__(self, newer: KVCache) -> KVCache:
        assert isinstance(newer, Replay)
        return Replay(_join(_only(self.inputs, self.roles - newer.inputs.roles), newer.inputs))

    def rename_roles(self, names: Mapping[str, str | None]) -> KVCache:
        """As that of a cache."""
        gone = {role for role, name in names.items() if name is None}
        return Replay(_rename(_only(self.inputs, self.roles - gone), names))

    def pick(self, index: Tensor) -> KVCache:
        """As that of a cache."""
        return Replay(self.inputs.pick(index))


def uncached(model: Model) -> Model:
    """`model` without caches: kept roles are recomputed in every pass."""

    def run(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        before = cache.inputs if isinstance(cache, Replay) else None
        kept = Replay(_only(inputs, keep))
        if keep and inputs.roles - {"text", "state"} <= set(keep):
            return ModelOutput(cache=kept)
        whole = inputs if before is None else _join(before, inputs)
        found = model(whole)
        parts = {}
        for name in ("video", "future", *MODALITIES[1:]):
            mine, velocity = getattr(inputs, name), getattr(found, name)
            if mine is None or velocity is None:
                continue
            axis, count = (2, len(mine.roles)) if isinstance(mine, Frames) else (1, _length(mine))
            parts[name] = velocity.narrow(axis, velocity.shape[axis] - count, count)
        return ModelOutput(**parts, cache=kept)

    return run


def _length(noisy: NoisyVectors) -> int:
    return noisy.x.shape[1]


def _only(inputs: ModelInputs, roles: Collection[str]) -> ModelInputs:
    """The parts of the inputs that have one of `roles`; text and state stay."""
    changes: dict[str, Any] = {}
    for name in ("video", "future"):
        frames = getattr(inputs, name)
        if frames is not None:
            some = any(role in roles for role in frames.roles)
            changes[name] = frames.only(*roles) if some else None
    for part in MODALITIES[1:]:
        noisy = getattr(inputs, part)
        if noisy is not None:
            names = noisy.roles or (part,) * _length(noisy)
            at = [i for i, name in enumerate(names) if name in roles]
            changes[part] = _steps(noisy, names, at) if at else None
    return inputs.with_(**changes)


def _steps(noisy: NoisyVectors, names: tuple[str, ...], at: list[int]) -> NoisyVectors:
    level = slice_levels(noisy.level, at)
    roles, times = tuple(names[i] for i in at), noisy.places()
    return NoisyVectors(noisy.x[:, at], level, roles, tuple(times[i] for i in at))


def _rename(inputs: ModelInputs, names: Mapping[str, str | None]) -> ModelInputs:
    def new(roles: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(names.get(role) or role for role in roles)

    changes: dict[str, Any] = {}
    for name in ("video", "future"):
        if (frames := getattr(inputs, name)) is not None:
            changes[name] = replace(frames, roles=new(frames.roles))
    for part in MODALITIES[1:]:
        if (noisy := getattr(inputs, part)) is not None:
            roles = noisy.roles or (part,) * _length(noisy)
            changes[part] = replace(noisy, roles=new(roles))
    return inputs.with_(**changes)


def _join(first: ModelInputs, second: ModelInputs) -> ModelInputs:
    """Both inputs in one; text and state are the second's."""
    changes: dict[str, Any] = {}
    for name in ("video", "future"):
        one, two = getattr(first, name), getattr(second, name)
        changes[name] = one.then(two) if one is not None and two is not None else two or one
    for part in MODALITIES[1:]:
        a, b = getattr(first, part), getattr(second, part)
        changes[part] = _after(a, b, part) if a is not None and b is not None else b or a
    return second.with_(**changes)


def _after(a: NoisyVectors, b: NoisyVectors, part: str) -> NoisyVectors:
    levels = [n.sigma.expand(-1, _length(n)) for n in (a, b)]
    roles = [n.roles or (part,) * _length(n) for n in (a, b)]
    x, times = torch.cat([a.x, b.x], 1), a.places() + b.places()
    return NoisyVectors(x, torch.cat(levels, 1), roles[0] + roles[1], times)
