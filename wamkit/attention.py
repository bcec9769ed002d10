"""Shared attention between any number of transformer streams: the whole of Mixture-of-Transformers.

Every block first shows its queries, keys and values; each role attends to exactly the roles it may
see; then every block takes the result in. No attention mask is built from visibility.

      stream 1   x --project--> q k v --+                +--absorb--> x
                                        |  role by role  |
      stream 2   x --project--> q k v --+   attention    +--absorb--> x

Letters as in `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
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

from .cache import KV, KVCache, joined
from .errors import WamkitError
from .types import Segment
from .visibility import Visibility

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class QKV(NamedTuple):
    """What a block shows: normalized, with positions applied to q and k."""

    q: Tensor  # [B, H, S, E]
    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]


class Block(Protocol):
    """A transformer block opened at its self-attention."""

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
    mask = None if valid is None else valid[:, None, None, :]
    if mask is not None and mask.is_floating_point():
        mask = mask.to(q.dtype)
    grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=grouped)


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
    present = {segment.role for stream in streams for segment in stream.segments}
    if unknown := present - set(sees):
        raise WamkitError(
            f"the visibility table has no row for {', '.join(sorted(unknown))}; "
            f"it speaks of {', '.join(sorted(sees))}",
            "add a row for it to the paradigm's `sees`",
        )
    kept: list[dict[str, KV]] = []
    outputs: list[dict[str, Tensor]] = []
    plans = _plans(streams, sees, cache)
    for layer, blocks in enumerate(zip(*(stream.blocks for stream in streams), strict=True)):
        ends = prefill and layer == depth - 1 and layer not in hidden
        awake = tuple([i for i, block in enumerate(blocks) if block is not None])
        key = awake, () if cache is None else tuple(cache.layers[layer])
        if key not in plans:
            plans[key] = _plan(streams, *key, sees)
        step = partial(_step, streams, blocks, layer, plans[key], attend, cache, keep, ends)
        tokens = [stream.x for stream in streams]
        if _again.get() and torch.is_grad_enabled():
            tokens, shown = checkpoint(step, tokens, use_reentrant=False)
        else:
            tokens, shown = step(tokens)
        kept.append(shown)
        for stream, x in zip(streams, tokens, strict=True):
            stream.x = x
        outputs.append(_by_role(streams) if layer in hidden else {})
    return KVCache(kept, outputs if hidden else ())


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

    stream: int
    start: int
    length: int
    valid: Tensor | None  # [B, length], as `Text.mask`

    def keys(self, shown: Mapping[int, QKV]) -> KV:
        """The keys and values of these tokens."""
        _, k, v = shown[self.stream]
        if self.length == k.shape[2]:
            return KV(k, v, self.valid)
        return KV(
            k.narrow(2, self.start, self.length), v.narrow(2, self.start, self.length), self.valid
        )


class Hearing(NamedTuple):
    """Queries in a row that attend to the same keys."""

    length: int
    cached: tuple[str, ...]
    sources: tuple[Source, ...]


class Plan(NamedTuple):
    """Who hears whom in a layer: the same in all layers where the same streams are awake."""

    hearings: dict[int, tuple[Hearing, ...]]  # stream -> its queries, run by run
    sources: dict[str, tuple[Source, ...]]  # role -> where its keys are


def _plans(streams: Sequence[Stream], sees: Visibility, cache: KVCache | None) -> dict[Any, Plan]:
    """The plans of a pass, by who is awake and what is cached; they last as long as the cache."""
    if cache is None or torch.is_grad_enabled():
        return {}
    held = [sees, *(s.valid for stream in streams for s in stream.segments)]  # so ids stay theirs
    shapes = [tuple([s[:2] for s in stream.segments]) for stream in streams]
    key = streams[0].x.shape[0], *map(id, held), *shapes
    return cache.plans.setdefault(key, (held, {}))[1]  # type: ignore[no-any-return]


def _plan(
    streams: Sequence[Stream], awake: tuple[int, ...], cached: tuple[str, ...], sees: Visibility
) -> Plan:
    """One run of queries for each run of segments that see the same roles."""
    pieces: dict[str, list[tuple[int, int, Segment]]] = {}
    for i in awake:
        start = 0
        for segment in streams[i].segments:
            pieces.setdefault(segment.role, []).append((i, start, segment))
            start += segment.length

    def sources(roles: Collection[str]) -> tuple[Source, ...]:
        rows: list[list[tuple[int, int, Segment]]] = []
        for piece in (piece for role, found in pieces.items() if role in roles for piece in found):
            i, start, _ = rows[-1][-1] if rows else (-1, 0, None)
            if i == piece[0] and start + rows[-1][-1][2].length == piece[1]:
                rows[-1].append(piece)
            else:
                rows.append([piece])
        return tuple(
            Source(
                row[0][0],
                row[0][1],
                sum(segment.length for _, _, segment in row),
                joined([(s.valid, s.length) for _, _, s in row], streams[row[0][0]].x),
            )
            for row in rows
        )

    def hearings(segments: tuple[Segment, ...]) -> Iterator[Hearing]:
        for seen, group in groupby(segments, key=lambda segment: frozenset(sees[segment.role])):
            old = tuple(role for role in cached if role in seen and role not in pieces)
            yield Hearing(sum(segment.length for segment in group), old, sources(seen))

    return Plan(
        {i: tuple(hearings(streams[i].segments)) for i in awake},
        {role: sources({role}) for role in pieces},
    )


def _step(
    streams: Sequence[Stream],
    blocks: Sequence[Block | None],
    layer: int,
    plan: Plan,
    attend: Attend,
    cache: KVCache | None,
    keep: Collection[str],
    ends: bool,
    tokens: Sequence[Tensor],
) -> tuple[list[Tensor], dict[str, KV]]:
    """One layer: the streams' next tokens, and the keys and values to keep. It may end at those."""
    shown: dict[int, QKV] = {}
    rests: dict[int, Any] = {}
    for i in plan.hearings:
        block = blocks[i]
        assert block is not None
        shown[i], rests[i] = block.project(tokens[i], streams[i].cond)
    after = list(tokens)
    for i, hearings in plan.hearings.items() if not ends else ():
        block = blocks[i]
        assert block is not None
        heard = _hear(hearings, shown[i].q, shown, attend, cache, layer)
        after[i] = block.absorb(heard.transpose(1, 2).flatten(2), rests[i], streams[i].cond)
    found = plan.sources
    return after, {
        role: KV.join([source.keys(shown) for source in found[role]]).kept()
        for role in keep
        if role in found
    }


def _hear(
    hearings: tuple[Hearing, ...],
    q: Tensor,
    shown: Mapping[int, QKV],
    attend: Attend,
    cache: KVCache | None,
    layer: int,
) -> Tensor:
    """One attention for each run of queries; [B, H, S, E]."""
    parts = (q,) if len(hearings) == 1 else q.split([hearing.length for hearing in hearings], 2)
    heard = []
    for hearing, part in zip(hearings, parts, strict=True):
        new = [source.keys(shown) for source in hearing.sources]
        if cache is None or not hearing.cached:
            keys = KV.join(new)
        elif new:
            keys = cache.followed_by(layer, hearing.cached, *new)
        else:
            keys = KV.join([cache.layers[layer][role] for role in hearing.cached])
        heard.append(attend(part, keys.k, keys.v, keys.valid))
    return heard[0] if len(heard) == 1 else torch.cat(heard, 2)


def _by_role(streams: Sequence[Stream]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for stream in streams:
        parts = stream.x.split([segment.length for segment in stream.segments], 1)
        for segment, part in zip(stream.segments, parts, strict=True):
            found.setdefault(segment.role, []).append(part)
    return {role: torch.cat(parts, 1) for role, parts in found.items()}
