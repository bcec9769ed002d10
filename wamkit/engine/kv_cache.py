"""The KV cache: what a pass leaves behind, and the buffers that later passes write behind it.

    [ cached keys of the roles that are attended to | room for the keys of this pass ]

A buffer is allocated before the first step, for each layer and each set of keys with cached roles.
A step writes its own keys into the room and attends to the whole: the loop allocates nothing and
copies no cached key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .attention_plan import KeySet, LayerPlan, role_of
from .device import detach_storage
from .text import additive_mask


class Segment(NamedTuple):
    """A named run of tokens in a stream, for example all tokens of the target frames."""

    role: str
    length: int
    mask: Tensor | None = None  # [B, length], as `Text.mask`; None if every token counts alike
    view: int | None = None  # the camera view they belong to, where views have tokens of their own

    @property
    def name(self) -> str:
        """Role and view: `context`, or `context@1`."""
        return self.role if self.view is None else f"{self.role}@{self.view}"


class KV(NamedTuple):
    """Keys and values of some tokens, normalized, with positions applied."""

    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]
    mask: Tensor | None = None  # [B, S], as `Text.mask`

    @staticmethod
    def join(parts: Sequence[KV]) -> KV:
        """All keys in a row."""
        if len(parts) == 1:
            return parts[0]
        k, v = torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2)
        return KV(k, v, joined_masks([(p.mask, p.k.shape[2]) for p in parts], k))

    def detached(self) -> KV:
        """The same without what it may have been cut from, such as queries next to the values."""
        k, v = detach_storage(self.k, self.v)
        return KV(k, v, self.mask)


class Keys(NamedTuple):
    """What is known of a key set before a pass: a buffer if any of it is cached, and its mask."""

    k: Tensor | None  # [B, K, cached + new, E]
    v: Tensor | None
    mask: Tensor | None  # [B, cached + new], added to the scores


def joined_masks(masks: Sequence[tuple[Tensor | None, int]], like: Tensor) -> Tensor | None:
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


class KVCache:
    """What a pass leaves behind: keys and values by layer and role, and hidden states."""

    def __init__(
        self,
        layers: Sequence[dict[str, KV]],
        hidden: Sequence[dict[str, Tensor]] = (),
        levels: Mapping[str, float | Tensor] | None = None,
    ) -> None:
        self.layers = tuple(layers)  # for each layer, role -> KV; `Segment.name` where it has views
        self.hidden = tuple(hidden)  # for each layer, role -> [B, S, D]; empty where none was asked
        self.levels = dict(levels or {})  # role -> noise its frames had, [B] or alike; with hidden
        self.branches = 1  # copies of the batch in a row, where guidance runs several at once
        self.derived: dict[Hashable, Any] = {}  # what follows from it, for passes that look at it

    @cached_property
    def roles(self) -> frozenset[str]:
        """The roles that are kept."""
        return frozenset(role_of(name) for layer in self.layers for name in layer)

    @cached_property
    def names_by_layer(self) -> tuple[tuple[str, ...], ...]:
        """Roles, and views where they have some, of each layer, in the order they are kept in."""
        return tuple(tuple(layer) for layer in self.layers)

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

    def derive(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """`make()`, once for as long as this cache lives; anew where gradients are on."""
        if torch.is_grad_enabled():
            return make()
        if key not in self.derived:
            self.derived[key] = make()
        return self.derived[key]

    def states(self, layer: int, roles: tuple[str, ...]) -> Tensor:
        """Hidden states of `roles` in a row [B, S, D]."""
        parts = [self.hidden[layer][role] for role in roles]
        if len(parts) == 1:
            return parts[0]
        return self.derive(("states", layer, roles), lambda: torch.cat(parts, 1))  # type: ignore[no-any-return]

    def level(self, roles: tuple[str, ...]) -> float | Tensor:
        """The highest noise level among the frames of `roles` when they passed.

        A number, or [B] float32 where samples differ.
        """
        parts = [self.levels[role] for role in roles if role in self.levels]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if not tensors:
            return max(part for part in parts if isinstance(part, float))
        return torch.stack(
            [torch.as_tensor(p).to(tensors[0]).expand_as(tensors[0]) for p in parts]
        ).amax(0)

    def without(self, roles: Collection[str]) -> KVCache:
        """What is left when `roles` are dropped."""
        return self.rename_roles(dict.fromkeys(roles))

    def rename_roles(self, names: Mapping[str, str | None]) -> KVCache:
        """The same entries under other roles; a role whose new name is None is dropped."""

        def moved(layer: Mapping[str, Any]) -> dict[str, Any]:
            new = {}
            for name, kept in layer.items():
                role = role_of(name)
                if (other := names.get(role, role)) is not None:
                    new[other + name[len(role) :]] = kept
            return new

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
                role: KV(kv.k[index], kv.v[index], None if kv.mask is None else kv.mask[index])
                for role, kv in layer.items()
            }
            for layer in self.layers
        ]
        hidden = [{role: x[index] for role, x in layer.items()} for layer in self.hidden]
        levels = {
            role: level[index] if isinstance(level, Tensor) else level
            for role, level in self.levels.items()
        }
        other = KVCache(layers, hidden, levels)
        other.branches = self.branches
        return other


def bind_keys(
    plan: Sequence[LayerPlan],
    segments: Sequence[Sequence[Segment]],
    cache: KVCache | None,
    like: Tensor,
) -> tuple[tuple[Keys, ...], ...]:
    """Buffers and masks of every layer's key sets.

    Args:
        plan: The layers of the pass.
        segments: Those of each stream.
        cache: What earlier passes left.
        like: Tokens of a stream [B, S, D]; masks have its dtype and device.
    """
    shared: dict[int, tuple[Keys, ...]] = {}  # layers of one plan without cache share their masks
    bound = []
    for layer, step in enumerate(plan):
        streams = [segments[i] for i in step.active]
        if any(key_set.cached for key_set in step.key_sets):
            assert cache is not None
            known = cache.layers[layer]
            bound.append(tuple(_keys(s, streams, known, like) for s in step.key_sets))
            continue
        if id(step) not in shared:
            shared[id(step)] = tuple(_keys(s, streams, {}, like) for s in step.key_sets)
        bound.append(shared[id(step)])
    return tuple(bound)


def _keys(
    wanted: KeySet, streams: Sequence[Sequence[Segment]], known: Mapping[str, KV], like: Tensor
) -> Keys:
    parts = [known[role] for role in wanted.cached]
    masks: list[tuple[Tensor | None, int]] = [(p.mask, p.k.shape[2]) for p in parts]
    for piece in wanted.slices:
        masks += _masks(streams[piece.stream], piece.start, piece.length)
    mask = additive_mask(joined_masks(masks, like), like.dtype)
    if not parts:
        return Keys(None, None, mask)
    room = 0 if torch.is_grad_enabled() else wanted.new
    return Keys(
        _with_room([p.k for p in parts], room), _with_room([p.v for p in parts], room), mask
    )


def _with_room(parts: Sequence[Tensor], room: int) -> Tensor:
    """Tensors [B, K, S, E] in a row, and so many empty places behind them."""
    if len(parts) == 1 and not room:
        return parts[0]
    shape = list(parts[0].shape)
    shape[2] = room
    return torch.cat([*parts, parts[0].new_zeros(shape)], 2)


def collect_cache(
    plan: Sequence[LayerPlan],
    segments: Sequence[Sequence[Segment]],
    collected: Sequence[Sequence[Tensor]],
) -> list[dict[str, KV]]:
    """What a pass collected, by layer and role, with the masks of its segments."""
    layers = []
    for step, found in zip(plan, collected, strict=True):
        kept = {}
        for (role, slices), k, v in zip(step.collect, found[::2], found[1::2], strict=True):
            masks = [
                m
                for s in slices
                for m in _masks(segments[step.active[s.stream]], s.start, s.length)
            ]
            kept[role] = KV(k, v, joined_masks(masks, k)).detached()
        layers.append(kept)
    return layers


def _masks(stream: Sequence[Segment], start: int, length: int) -> list[tuple[Tensor | None, int]]:
    """The masks of the segments that lie in a slice of a stream, and their lengths."""
    found, at = [], 0
    for segment in stream:
        if start <= at < start + length:
            found.append((segment.mask, segment.length))
        at += segment.length
    return found
