"""What a pass leaves behind: keys and values of every layer by role, and hidden states."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..acceleration.fused_linear import alone


class KV(NamedTuple):
    """Keys and values of some tokens, normalized and positioned."""

    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]
    valid: Tensor | None = None  # [B, S], as `Text.mask`

    @staticmethod
    def join(parts: Sequence[KV]) -> KV:
        """All keys in a row."""
        if len(parts) == 1:
            return parts[0]
        k, v = torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2)
        return KV(k, v, joined([(p.valid, p.k.shape[2]) for p in parts], k))

    def kept(self) -> KV:
        """The same without what it may have been cut from, such as queries beside the values."""
        k, v = alone(self.k, self.v)
        return KV(k, v, self.valid)


def joined(masks: Sequence[tuple[Tensor | None, int]], like: Tensor) -> Tensor | None:
    """Masks [B, S], as `Text.mask`, in a row; each comes with its S. B and device are `like`'s."""
    if all(mask is None for mask, _ in masks):
        return None
    if len(masks) == 1:
        return masks[0][0]
    found = [
        torch.ones(like.shape[0], length, dtype=torch.bool, device=like.device)
        if mask is None
        else mask
        for mask, length in masks
    ]
    if any(mask.is_floating_point() for mask in found):
        found = [mask if mask.is_floating_point() else mask.float().log() for mask in found]
    return torch.cat(found, 1)


def _behind(parts: Sequence[Tensor], count: int) -> Tensor:
    """Tensors [B, K, S, E] in a row, and so many empty places behind them."""
    if len(parts) == 1 and not count:
        return parts[0]
    shape = list(parts[0].shape)
    shape[2] = count
    return torch.cat([*parts, parts[0].new_empty(shape)], 2)


class KVCache:
    """What a pass leaves behind: keys and values by layer and role, and hidden states.

    A pass that looks at cached roles beside its own writes its own keys behind the cached ones, in
    a buffer that is made before its first step (`room`): the step loop allocates nothing and
    copies no cached key.
    """

    def __init__(
        self,
        layers: Sequence[dict[str, KV]],
        hidden: Sequence[dict[str, Tensor]] = (),
        levels: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.layers = tuple(layers)  # for each layer, role -> KV
        self.hidden = tuple(hidden)  # for each layer, role -> [B, S, D]; empty where none was asked
        self.levels = dict(levels or {})  # role -> [B], the noise its frames had; only with hidden
        self._rows: dict[Hashable, Tensor] = {}
        self.rooms: dict[Hashable, KV] = {}  # see `room`
        self.plans: dict[Hashable, Any] = {}  # who hears whom in passes that look at this cache
        self.branches = 1  # copies of the batch in a row, where guidance runs several at once

    @cached_property
    def roles(self) -> frozenset[str]:
        """The roles that are kept."""
        return frozenset(role for layer in self.layers for role in layer)

    def __or__(self, newer: KVCache) -> KVCache:
        """Both; a role that both hold is taken from `newer`."""
        layers = [{**a, **b} for a, b in zip(self.layers, newer.layers, strict=True)]
        hidden = (
            [{**a, **b} for a, b in zip(self.hidden, newer.hidden, strict=True)]
            if self.hidden and newer.hidden
            else (newer.hidden or self.hidden)
        )
        both = KVCache(layers, hidden, {**self.levels, **newer.levels})
        both.branches = newer.branches
        return both

    def states(self, layer: int, roles: tuple[str, ...]) -> Tensor:
        """Hidden states of `roles` in a row [B, S, D]; without gradients always the same tensor."""
        parts = [self.hidden[layer][role] for role in roles]
        return self._row((layer, roles), parts, lambda: torch.cat(parts, 1))

    def level(self, roles: tuple[str, ...]) -> Tensor:
        """The highest noise level among the frames of `roles` [B] float32, when they passed."""
        parts = [self.levels[role] for role in roles if role in self.levels]
        return self._row(roles, parts, lambda: torch.stack(parts).amax(0))

    def _row(self, key: Hashable, parts: Sequence[Tensor], make: Callable[[], Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        if torch.is_grad_enabled():
            return make()
        if key not in self._rows:
            self._rows[key] = make()
        return self._rows[key]

    def room(
        self,
        layer: int,
        roles: tuple[str, ...],
        fresh: Sequence[tuple[Tensor | None, int]] = (),
        source: Hashable = None,
    ) -> KV:
        """The cached keys of `roles` in a row, and behind them room for those of a pass.

        `fresh` are masks [B, S], as `Text.mask`, and lengths S of what the pass writes there, anew
        in each of its steps; `source` says what it is. Made once for each; with gradients there is
        no room behind what is cached.
        """
        parts = [self.layers[layer][role] for role in roles]
        count = sum(length for _, length in fresh)
        if torch.is_grad_enabled() or not count:
            fresh, count = (), 0
        masks = [None if mask is None else id(mask) for mask, _ in fresh]  # which a plan holds
        key = layer, roles, source, count, *masks
        if key in self.rooms:
            return self.rooms[key]
        k, v = (_behind([part[i] for part in parts], count) for i in (0, 1))  # type: ignore[misc]
        whole = KV(k, v, joined([*((p.valid, p.k.shape[2]) for p in parts), *fresh], k))
        if not torch.is_grad_enabled():
            self.rooms[key] = whole
        return whole

    def without(self, roles: Collection[str]) -> KVCache:
        """What is left when `roles` are dropped."""
        return self.renamed(dict.fromkeys(roles))

    def renamed(self, names: Mapping[str, str | None]) -> KVCache:
        """The same entries under other roles; a role whose new name is None is dropped."""

        def moved(layer: Mapping[str, Any]) -> dict[str, Any]:
            new = {names.get(role, role): kept for role, kept in layer.items()}
            return {role: kept for role, kept in new.items() if role is not None}

        other = KVCache(
            [moved(x) for x in self.layers], [moved(x) for x in self.hidden], moved(self.levels)
        )
        other.branches = self.branches
        return other

    def pick(self, index: Tensor) -> KVCache:
        """The samples `index` [B'] of the batch, in that order; one may come more than once."""
        if self.branches > 1:
            size = next(kv.k.shape[0] for layer in self.layers for kv in layer.values())
            steps = range(0, size, size // self.branches)
            index = torch.cat([index + start for start in steps])
        layers = [
            {
                role: KV(kv.k[index], kv.v[index], None if kv.valid is None else kv.valid[index])
                for role, kv in layer.items()
            }
            for layer in self.layers
        ]
        hidden = [{role: x[index] for role, x in layer.items()} for layer in self.hidden]
        levels = {role: level[index] for role, level in self.levels.items()}
        other = KVCache(layers, hidden, levels)
        other.branches = self.branches
        return other
