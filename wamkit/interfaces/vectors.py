"""Vectors of a pass: their noise levels, roles and places, and the tokens they become."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

from ..engine.levels import (
    CLEAN,
    Level,
    Levels,
    PrefixLevels,
    expand_levels,
    sigma_tensor,
    slice_levels,
)


@lru_cache
def counted(count: int) -> tuple[float, ...]:
    """Times 0, 1, ... of frames or actions."""
    return tuple(float(i) for i in range(count))


@dataclass(frozen=True)
class NoisyVectors:
    """Vectors at a noise level: an action chunk, a state to come, a value."""

    x: Tensor  # [B, N, A], normalized
    level: Level | Levels | PrefixLevels
    """Of a run, or N of them, or these behind a clean prefix; or [B], or [B, N], float32 in
    [0, 1]."""
    roles: tuple[str, ...] = ()  # N names; () if all have the name of their modality
    times: tuple[float, ...] | None = None  # N places on the axis of actions; None for 0 .. N - 1

    @property
    def sigma(self) -> Tensor:
        """The noise level of every step [B, N], or [B, 1] if they share one; float32."""
        return sigma_tensor(expand_levels(self.level, 1), self.x.shape[0], self.x.device)

    def places(self) -> tuple[float, ...]:
        """Where every step stands on the axis of actions."""
        return counted(self.x.shape[1]) if self.times is None else self.times

    def map_tensors(self, rows: Callable[[Tensor], Tensor]) -> NoisyVectors:
        """The same of other samples, which `rows` takes from x and levels."""
        level = self.level
        if isinstance(level, PrefixLevels):
            level = PrefixLevels(level.levels, rows(level.clean))
        elif isinstance(level, Tensor):
            level = rows(level)
        return NoisyVectors(rows(self.x), level, self.roles, self.times)

    def towards(self, data: Tensor) -> Tensor:
        """The velocity [B, N, A] that puts x on the straight way from noise to `data`."""
        return (self.x - data.float()) / self.sigma[..., None].clamp(min=1e-6)


@dataclass(frozen=True)
class StateTokens:
    """The states of several blocks of an episode, a token for each."""

    x: Tensor  # [B, n, P], normalized
    roles: tuple[str, ...]  # n names: "state.0", "state.1", ...
    times: tuple[float, ...]  # n places on the axis of actions
    follows_action: bool = False  # whether each has the level of the first action of its block
    level: Tensor | None = None  # [B, n] that each has, where that action is a clean prefix

    def only(self, roles: Collection[str]) -> StateTokens | None:
        """Those with one of these roles; None if there is none."""
        at = [i for i, role in enumerate(self.roles) if role in roles]
        if len(at) == len(self.roles):
            return self
        if not at:
            return None
        level = None if self.level is None else self.level[:, at]
        names, times = tuple(self.roles[i] for i in at), tuple(self.times[i] for i in at)
        return replace(self, x=self.x[:, at], roles=names, times=times, level=level)

    def map_tensors(self, rows: Callable[[Tensor], Tensor]) -> StateTokens:
        """The same of other samples, which `rows` takes from x."""
        level = None if self.level is None else rows(self.level)
        return replace(self, x=rows(self.x), level=level)

    def group(self, action: NoisyVectors | None) -> TokenGroup:
        """The tokens; `action` has the actions of the blocks."""
        level: Level | Levels = CLEAN
        if self.level is not None:
            level = self.level
        elif self.follows_action and action is not None:
            found = action.level
            level = found.levels if isinstance(found, PrefixLevels) else found
            if not isinstance(level, Level):
                names = action.roles or ("action",) * action.x.shape[1]
                own = [role.rstrip("'").replace("state", "action", 1) for role in self.roles]
                level = slice_levels(expand_levels(level, 1), [names.index(name) for name in own])
        return TokenGroup("state", self.x, level, self.roles, self.times)


class TokenGroup(NamedTuple):
    """Vectors of the inputs that become tokens, one each, as an action head finds them."""

    modality: str  # "state", "action", "next_state" or "value"; a head may have kinds of its own
    x: Tensor | None  # [B, n, A]; None for tokens that are learned
    level: Level | Levels | PrefixLevels  # of a run, or n of them, or [B, n or 1] float32
    roles: tuple[str, ...]  # n
    times: tuple[float, ...]  # n places on the axis of actions
    mask: Tensor | None = None  # [B, n] as `Text.mask`, for a group of one role
