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

from .cache import KV, KVCache
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
    for layer in range(depth):
        ends = prefill and layer == depth - 1 and layer not in hidden
        step = partial(_step, streams, layer, sees, attend, cache, keep, ends)
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


def _step(
    streams: Sequence[Stream],
    layer: int,
    sees: Visibility,
    attend: Attend,
    cache: KVCache | None,
    keep: Collection[str],
    ends: bool,
    tokens: Sequence[Tensor],
) -> tuple[list[Tensor], dict[str, KV]]:
    """One layer: the streams' next tokens, and the keys and values to keep. It may end at those."""
    fresh: dict[str, list[KV]] = {}
    awake: list[tuple[int, Block, Tensor, Any]] = []
    for i, stream in enumerate(streams):
        block = stream.blocks[layer]
        if block is None:
            continue
        qkv, rest = block.project(tokens[i], stream.cond)
        awake.append((i, block, qkv.q, rest))
        sizes = [segment.length for segment in stream.segments]
        keys, values = qkv.k.split(sizes, 2), qkv.v.split(sizes, 2)
        for segment, k, v in zip(stream.segments, keys, values, strict=True):
            fresh.setdefault(segment.role, []).append(KV(k, v, segment.valid))
    book = {role: KV.join(parts) for role, parts in fresh.items()}
    after = list(tokens)
    for i, block, q, rest in awake if not ends else ():
        heard = _hear(streams[i].segments, q, book, sees, attend, cache, layer)
        after[i] = block.absorb(heard.transpose(1, 2).flatten(2), rest, streams[i].cond)
    return after, {role: book[role] for role in keep if role in book}


def _hear(
    segments: tuple[Segment, ...],
    q: Tensor,
    book: dict[str, KV],
    sees: Visibility,
    attend: Attend,
    cache: KVCache | None,
    layer: int,
) -> Tensor:
    """One attention for each run of segments that see the same roles; [B, H, S, E]."""
    runs = [
        (seen, sum(segment.length for segment in group))
        for seen, group in groupby(segments, key=lambda segment: frozenset(sees[segment.role]))
    ]
    heard = []
    for (seen, _), part in zip(runs, q.split([length for _, length in runs], 2), strict=True):
        new = [kv for role, kv in book.items() if role in seen]
        old = (
            ()
            if cache is None
            else tuple(role for role in cache.layers[layer] if role in seen and role not in book)
        )
        if old and new and cache is not None:
            keys = cache.followed_by(layer, old, KV.join(new))
        else:
            keys = KV.join(new or [cache.layers[layer][role] for role in old])  # type: ignore[union-attr]
        heard.append(attend(part, keys.k, keys.v, keys.valid))
    return heard[0] if len(heard) == 1 else torch.cat(heard, 2)


def _by_role(streams: Sequence[Stream]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for stream in streams:
        parts = stream.x.split([segment.length for segment in stream.segments], 1)
        for segment, part in zip(stream.segments, parts, strict=True):
            found.setdefault(segment.role, []).append(part)
    return {role: torch.cat(parts, 1) for role, parts in found.items()}
