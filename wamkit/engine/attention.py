"""Shared attention between any number of transformer streams: the whole of Mixture-of-Transformers.

Every block first shows its queries, keys and values; each role attends to exactly the roles it may
see; then every block takes the result in. No attention mask is built from visibility.

      stream 1   x --project--> q k v --+                +--absorb--> x
                                        |  role by role  |
      stream 2   x --project--> q k v --+   attention    +--absorb--> x

Letters as in `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..acceleration.regions import compiles, region
from ..config.visibility import Visibility
from ..errors import WamkitError
from .kv_cache import KV, KVCache, joined
from .layers import additive

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Segment(NamedTuple):
    """A named run of tokens in a stream, for example all tokens of the target frames."""

    role: str
    length: int
    valid: Tensor | None = None  # [B, length], as `Text.mask`; None if every token counts alike


class QKV(NamedTuple):
    """What a block shows: normalized, with positions applied to q and k."""

    q: Tensor  # [B, H, S, E]
    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]


class Block(Protocol):
    """A transformer block opened at its self-attention.

    What a block keeps from call to call, such as the keys of the words (`Text.lasting`), is what a
    third method `told(cond)` returns; `absorb` is given it as `told`, or None: then it asks itself.
    The other two methods only compute, so that a layer can be compiled.
    """

    def project(self, x: Tensor, cond: Any) -> tuple[QKV, Any]:
        """Tokens [B, S, D] to q, k, v, and whatever `absorb` needs besides."""

    def absorb(self, attended: Tensor, rest: Any, cond: Any) -> Tensor:
        """Attention output [B, S, H * E] to the next tokens [B, S, D]."""


@dataclass
class Stream:
    """Tokens on their way through one stack of blocks."""

    blocks: Sequence[Block | None]  # None: this stream rests at that layer
    x: Tensor  # [B, S, D]
    segments: tuple[Segment, ...]
    cond: Any  # what the blocks need besides the tokens; opaque to everyone else


def sdpa(q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None = None) -> Tensor:
    """Softmax attention, [B, H, S, E] out; `valid` [B, S of the keys] is as `Text.mask`."""
    if valid is not None and valid.is_floating_point():
        valid = valid.to(q.dtype)
    mask, grouped = None, q.shape[1] != k.shape[1]
    if valid is not None and q.is_cuda:
        mask = valid.as_strided(  # `additive` has aligned its rows: a view of it is taken as it is
            (len(valid), q.shape[1], q.shape[2], valid.shape[1]), (valid.stride(0), 0, 0, 1)
        )
        if grouped:  # no fast kernel takes both
            k, v, grouped = _each(k, q), _each(v, q), False
    elif valid is not None:
        mask = valid[:, None, None, :]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


def _each(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values [B, K, S, E] for every head of q [B, H, ...]: [B, H, S, E]."""
    times = q.shape[1] // x.shape[1]
    return x.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2)


def run(
    streams: Sequence[Stream],
    sees: Visibility,
    *,
    attend: Attend = sdpa,
    cache: KVCache | None = None,
    keep: Collection[str] = (),
    hidden: Collection[int] = (),
    prefill: bool = False,
) -> KVCache:
    """Advance all streams through all layers, in lockstep, and return what is to be kept.

    `keep` names the roles whose keys and values are kept, `hidden` the layers whose outputs are.
    `cache` holds roles of an earlier pass that may be looked at. With `prefill` only what is kept
    matters, so the last layer stops at its keys and the streams' outputs are not to be used.

    Raises WamkitError if a role is present that the table does not speak of.
    """
    depth = len(streams[0].blocks)
    kept: list[dict[str, KV]] = []
    outputs: list[dict[str, Tensor]] = []
    again = _again.get() and torch.is_grad_enabled()
    compiled = compiles()
    tokens = [stream.x for stream in streams]
    for layer, lap in enumerate(_laps(streams, sees, cache)):
        ends = prefill and layer == depth - 1 and layer not in hidden
        if again:
            step = partial(_step, streams, layer, lap, attend, keep, ends, compiled)
            tokens, shown = checkpoint(step, tokens, use_reentrant=False)
        else:
            tokens, shown = _step(streams, layer, lap, attend, keep, ends, compiled, tokens)
        kept.append(shown)
        if hidden:
            outputs.append(_by_role(streams, tokens) if layer in hidden else {})
    for stream, x in zip(streams, tokens, strict=True):
        stream.x = x
    return KVCache(kept, outputs)


_again: ContextVar[bool] = ContextVar("again", default=False)


@contextmanager
def recomputed() -> Iterator[None]:
    """Within, layers keep only the tokens that enter them, and run again when gradients are due.

    The numbers are the same; memory is that of one layer beside the tokens at every layer's
    entrance, for a third more work.
    """
    token = _again.set(True)
    try:
        yield
    finally:
        _again.reset(token)


class Source(NamedTuple):
    """Tokens in a row of one stream."""

    stream: int  # place among those that are awake
    start: int
    length: int

    def of(self, shown: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """The keys and values of these tokens."""
        k, v = shown[self.stream]
        if self.length == k.shape[2]:
            return k, v
        return k.narrow(2, self.start, self.length), v.narrow(2, self.start, self.length)


class Hearing(NamedTuple):
    """Queries in a row that attend to the same keys."""

    length: int
    keys: int  # place among the keys of the plan


class Plan(NamedTuple):
    """Who hears whom: the same in all layers where the same streams are awake."""

    hearings: tuple[tuple[Hearing, ...], ...]  # of each stream that is awake, run by run
    keys: tuple[tuple[Source, ...], ...]  # what is new among the keys that some queries attend to


class Wanted(NamedTuple):
    """Keys that some queries attend to."""

    cached: tuple[str, ...]  # roles, which come first
    sources: tuple[Source, ...]
    masks: tuple[tuple[Tensor | None, int], ...]  # of the sources, as `Text.mask`, and lengths


class Keys(NamedTuple):
    """The keys of a plan as a layer finds them."""

    plan: Plan
    known: tuple[tuple[Tensor, Tensor] | None, ...]  # what is cached of them, with room behind it
    masks: tuple[Tensor | None, ...]  # as `Text.mask`


class Lap(NamedTuple):
    """A layer of a pass: all about it that tokens do not change."""

    awake: tuple[int, ...]
    keys: Keys
    roles: dict[str, Wanted]  # where the keys of each role are


def told_of(block: Any, cond: Any) -> tuple[Any, ...]:
    """What `absorb` is given besides where it is compiled, if its block keeps anything."""
    if not compiles():
        return ()
    told = getattr(block, "told", None)
    return () if told is None else (told(cond),)


def _laps(streams: Sequence[Stream], sees: Visibility, cache: KVCache | None) -> Sequence[Lap]:
    """The layers of a pass; they last as long as the cache it looks at."""
    awake = list(zip(*([b is not None for b in stream.blocks] for stream in streams), strict=True))
    if cache is None or torch.is_grad_enabled():
        return _planned(streams, awake, sees, cache)
    held = [sees, *(s.valid for stream in streams for s in stream.segments)]  # so ids stay theirs
    shapes = [tuple([s[:2] for s in stream.segments]) for stream in streams]
    key = streams[0].x.shape[0], *awake, *map(id, held), *shapes
    found = cache.plans.get(key)
    if found is None:
        found = cache.plans[key] = held, _planned(streams, awake, sees, cache)
    return found[1]  # type: ignore[no-any-return]


def _planned(
    streams: Sequence[Stream],
    awake: Sequence[tuple[bool, ...]],
    sees: Visibility,
    cache: KVCache | None,
) -> Sequence[Lap]:
    present = {segment.role for stream in streams for segment in stream.segments}
    if unknown := present - set(sees):
        raise WamkitError(
            f"the visibility table has no row for {', '.join(sorted(unknown))}; "
            f"it speaks of {', '.join(sorted(sees))}",
            "add a row for it to the paradigm's `sees`",
        )
    plans: dict[Any, tuple[Plan, list[Wanted], dict[str, Wanted]]] = {}
    like, laps = streams[0].x, []
    for layer, who in enumerate(awake):
        places = tuple([i for i, wakes in enumerate(who) if wakes])
        key = places, () if cache is None else tuple(cache.layers[layer])
        if key not in plans:
            plans[key] = _plan([streams[i].segments for i in places], key[1], sees)
        plan, wanted, roles = plans[key]
        rooms = [
            cache.room(layer, want.cached, want.masks, want.sources)
            if cache is not None and want.cached
            else None
            for want in wanted
        ]
        known = tuple([None if room is None else (room.k, room.v) for room in rooms])
        masks = tuple(
            [
                additive(_mask(room, want, like), like.dtype)
                for room, want in zip(rooms, wanted, strict=True)
            ]
        )
        laps.append(Lap(places, Keys(plan, known, masks), roles))
    return laps


def _mask(room: KV | None, wanted: Wanted, like: Tensor) -> Tensor | None:
    """Which keys may be attended to: those known, and the new ones behind them."""
    if room is None:
        return joined(wanted.masks, like)
    if torch.is_grad_enabled():  # there is no room yet
        return joined([(room.valid, room.k.shape[2]), *wanted.masks], like)
    return room.valid


def _plan(
    rows: Sequence[tuple[Segment, ...]], cached: tuple[str, ...], sees: Visibility
) -> tuple[Plan, list[Wanted], dict[str, Wanted]]:
    """The plan, more about each of its keys, and where the keys of each role are.

    One run of queries for each run of segments that see the same roles.
    """
    pieces: dict[str, list[tuple[Source, Tensor | None]]] = {}
    for i, segments in enumerate(rows):
        start = 0
        for segment in segments:
            piece = Source(i, start, segment.length), segment.valid
            pieces.setdefault(segment.role, []).append(piece)
            start += segment.length

    def want(roles: Collection[str]) -> Wanted:
        """Role by role, and neighbors as one."""
        runs: list[list[tuple[Source, Tensor | None]]] = []
        for piece in (piece for role, found in pieces.items() if role in roles for piece in found):
            last = runs[-1][-1][0] if runs else Source(-1, 0, 0)
            if (last.stream, last.start + last.length) == (piece[0].stream, piece[0].start):
                runs[-1].append(piece)
            else:
                runs.append([piece])
        sources = tuple(
            Source(run[0][0].stream, run[0][0].start, sum(source.length for source, _ in run))
            for run in runs
        )
        masks = tuple((mask, source.length) for run in runs for source, mask in run)
        old = tuple(role for role in cached if role in roles and role not in pieces)
        return Wanted(old, sources, masks)

    wanted: list[Wanted] = []
    hearings = []
    for segments in rows:
        mine = []
        for seen, group in groupby(segments, key=lambda segment: frozenset(sees[segment.role])):
            new = want(seen)
            same = (i for i, other in enumerate(wanted) if other[:2] == new[:2])
            if (at := next(same, len(wanted))) == len(wanted):
                wanted.append(new)
            mine.append(Hearing(sum(segment.length for segment in group), at))
        hearings.append(tuple(mine))
    plan = Plan(tuple(hearings), tuple([want.sources for want in wanted]))
    return plan, wanted, {role: want({role}) for role in pieces}


def _step(
    streams: Sequence[Stream],
    layer: int,
    lap: Lap,
    attend: Attend,
    keep: Collection[str],
    ends: bool,
    compiled: bool,
    tokens: list[Tensor],
) -> tuple[list[Tensor], dict[str, KV]]:
    """One layer: the streams' next tokens, and the keys and values to keep. It may end at those."""
    every = len(lap.awake) == len(streams)
    awake = streams if every else [streams[i] for i in lap.awake]
    given = tokens if every else [tokens[i] for i in lap.awake]
    blocks: list[Any] = [stream.blocks[layer] for stream in awake]
    conds = [stream.cond for stream in awake]
    if compiled:
        told = [() if ends else told_of(block, c) for block, c in zip(blocks, conds, strict=True)]
        new, shown = _region(blocks, given, conds, told, lap.keys, attend, bool(keep), ends)
    else:
        untold = [()] * len(blocks)
        new, shown = _layer(blocks, given, conds, untold, lap.keys, attend, bool(keep), ends)
    if every and not ends:
        after = new
    else:
        after = list(tokens)
        for i, x in zip(lap.awake, new, strict=not ends):
            after[i] = x
    kept: dict[str, KV] = {}
    for role in keep:
        if role in lap.roles:
            at = lap.roles[role]
            k, v = _row([source.of(shown) for source in at.sources])
            kept[role] = KV(k, v, joined(at.masks, k)).kept()
    return after, kept


def _layer(
    blocks: Sequence[Block],
    tokens: Sequence[Tensor],
    conds: Sequence[Any],
    told: Sequence[tuple[Any, ...]],
    keys: Keys,
    attend: Attend,
    shows: bool,
    ends: bool,
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """All blocks of a layer, and attention between them: next tokens, and keys and values."""
    queries, shown, rests = [], [], []
    for block, x, cond in zip(blocks, tokens, conds, strict=True):
        (q, k, v), rest = block.project(x, cond)
        queries.append(q)
        shown.append((k, v))
        rests.append(rest)
    if ends:
        return [], shown
    (hearings, sources), known, masks = keys
    found = [gather(new, room, shown) for new, room in zip(sources, known, strict=True)]
    after = []
    for block, q, heard, rest, cond, more in zip(
        blocks, queries, hearings, rests, conds, told, strict=True
    ):
        row = hear(q, heard, found, masks, attend)
        after.append(block.absorb(row, rest, cond, *more))
    return after, shown if shows else []


_region = region(_layer)


def hear(
    q: Tensor,
    hearings: Sequence[Hearing],
    keys: Sequence[tuple[Tensor, Tensor]],
    masks: Sequence[Tensor | None],
    attend: Attend,
) -> Tensor:
    """What the queries of a stream find, run by run, [B, S, H * E]."""
    if len(hearings) == 1:
        ((_, at),) = hearings
        heard = attend(q, *keys[at], masks[at])
    else:
        parts = q.split([hearing.length for hearing in hearings], 2)
        found = [
            attend(part, *keys[at], masks[at])
            for part, (_, at) in zip(parts, hearings, strict=True)
        ]
        heard = torch.cat(found, 2)
    return heard.transpose(1, 2).flatten(2)


def gather(
    sources: Sequence[Source],
    room: tuple[Tensor, Tensor] | None,
    shown: Sequence[tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """The keys and values that some queries attend to; new ones are written behind those known."""
    new = [source.of(shown) for source in sources]
    if room is None:
        return _row(new)
    if torch.is_grad_enabled():
        return _row([room, *new])
    end = room[0].shape[2] - sum(source.length for source in sources)
    for source, pair in zip(sources, new, strict=True):
        for whole, part in zip(room, pair, strict=True):
            whole.narrow(2, end, source.length).copy_(part)
        end += source.length
    return room


def _row(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """All keys and all values in a row."""
    if len(pairs) == 1:
        return pairs[0]
    return torch.cat([k for k, _ in pairs], 2), torch.cat([v for _, v in pairs], 2)


def _by_role(streams: Sequence[Stream], tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for stream, x in zip(streams, tokens, strict=True):
        parts = x.split([segment.length for segment in stream.segments], 1)
        for segment, part in zip(stream.segments, parts, strict=True):
            found.setdefault(segment.role, []).append(part)
    return {role: torch.cat(parts, 1) for role, parts in found.items()}
