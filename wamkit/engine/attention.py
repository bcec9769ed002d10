"""Passes of any number of token streams through their blocks, with shared self-attention.

    stream 1   x --pre_attention--> q k v --+                +--post_attention--> x
                                            |  key set by    |
    stream 2   x --pre_attention--> q k v --+  key set       +--post_attention--> x

The whole of Mixture-of-Transformers: no mask is built from visibility. A pass is one function of
tensors. It runs eager, or compiled as a whole, where equal layers are compiled once and their
weights are inputs of the code. Letters as in `types`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .attention_plan import KeySet, KeySlice, LayerPlan, QueryGroup
from .conditioning import (
    LiveModulation,
    ModulationTable,
    PositionCond,
    TextCond,
    TextKV,
    live_rows,
)
from .kv_cache import KV, Keys
from .kv_cache import Segment as Segment

Attend = Callable[..., Tensor]
"""attend(q, k, v, mask=None, causal=False) -> [B, H, S, E], as `attention`."""


class QKV(NamedTuple):
    """Queries, keys and values of some tokens, normalized, with positions applied."""

    q: Tensor  # [B, H, S, E]
    k: Tensor  # [B, K, S, E]
    v: Tensor  # [B, K, S, E]


class Stream(NamedTuple):
    """Tokens at the entrance of a stack of blocks, and all that the blocks read besides."""

    blocks: tuple[Any, ...]  # None where these tokens rest
    tokens: Tensor  # [B, S, D]
    segments: tuple[Segment, ...]
    level_index: Tensor  # [B or 1, G] rows of the modulation's levels, for groups of S / G tokens
    modulation: ModulationTable | LiveModulation
    rotary: PositionCond = None
    text_kv: tuple[TextKV | None, ...] | None = None  # of each layer; None: blocks compute theirs
    text: TextCond | None = None  # for blocks that do
    views_apart: tuple[bool, ...] = ()  # of each layer; () if segments have no views


class Inside(NamedTuple):
    """A stream without its names: what a pass computes with."""

    blocks: tuple[Any, ...]
    tokens: Tensor
    level_index: Tensor
    modulation: ModulationTable | LiveModulation
    rotary: PositionCond
    text_kv: tuple[TextKV | None, ...] | None
    text: TextCond | None

    @staticmethod
    def of(stream: Stream) -> Inside:
        """The tensors and blocks of a stream."""
        blocks, tokens, _, *rest, _ = stream
        return Inside(blocks, tokens, *rest)


class PassResult(NamedTuple):
    """What a pass computes: flat lists of tensors, as compiled code likes them."""

    tokens: list[Tensor]  # of each stream
    collected: list[list[Tensor]]  # of each layer, keys and values in turn
    hidden: list[list[Tensor]]  # of each layer whose outputs are kept, those of each stream


def attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, causal: bool = False
) -> Tensor:
    """Softmax attention.

    Args:
        q: Queries [B, H, S, E].
        k: Keys [B, K, S', E]; K divides H.
        v: Values [B, K, S', E].
        mask: As `Text.mask`, [B, S']: bool, or added to the scores.
        causal: The last S keys are those of the queries, and each sees up to its own.

    Returns:
        [B, H, S, E].
    """
    grouped = q.shape[1] != k.shape[1]
    if causal and (mask is not None or q.shape[2] != k.shape[2]):
        mask, causal = _causal_mask(q, k, mask), False
    elif mask is not None:
        mask = mask.to(q.dtype) if mask.is_floating_point() else mask
        if q.is_cuda:
            mask = mask.as_strided(  # rows are aligned (`additive_mask`): a view is taken as it is
                (len(mask), q.shape[1], q.shape[2], mask.shape[1]), (mask.stride(0), 0, 0, 1)
            )
        else:
            mask = mask[:, None, None, :]
    if mask is not None and grouped and q.is_cuda:  # no fast kernel takes both
        k, v, grouped = _for_each_head(k, q), _for_each_head(v, q), False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )


def _causal_mask(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """[B or 1, 1, S, S'] bool or additive, of queries that belong to the last keys."""
    rows, columns = q.shape[2], k.shape[2]
    seen = torch.ones(rows, columns, dtype=torch.bool, device=q.device).tril(columns - rows)
    if mask is None:
        return seen[None, None]
    if mask.is_floating_point():
        return mask.to(q.dtype)[:, None, None].masked_fill(~seen, float("-inf"))
    return mask[:, None, None] & seen


def _for_each_head(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values [B, K, S, E] for every head of q [B, H, ...]: [B, H, S, E]."""
    times = q.shape[1] // x.shape[1]
    return x.unsqueeze(2).expand(-1, -1, times, -1, -1).flatten(1, 2)


def run_pass(
    plan: Sequence[LayerPlan],
    streams: Sequence[Inside],
    keys: Sequence[Sequence[Keys]],
    attend: Attend = attention,
    *,
    regions: bool = True,
) -> PassResult:
    """All layers, with modulation and text keys that are known beforehand.

    Compiled, equal layers are one region; without `regions` every layer is written out.
    """
    run_layer = compiled_layer if regions else _layer
    tokens = _entering(streams)
    rows = [stream.modulation.gather(stream.level_index) for stream in streams]  # type: ignore[union-attr]
    result = PassResult(tokens, [], [])
    for layer, step in enumerate(plan):
        at = step.active
        out = run_layer(
            step,
            [streams[i].blocks[layer] for i in at],
            [tokens[i] for i in at],
            [rows[i][layer] for i in at],
            [streams[i].rotary for i in at],
            [_text_kv_at(streams[i], layer) for i in at],
            keys[layer],
            attend,
        )
        _advance(step, out, result)
    return result


def run_whole_pass(
    plan: Sequence[LayerPlan],
    streams: Sequence[Inside],
    keys: Sequence[Sequence[Keys]],
    attend: Attend = attention,
) -> PassResult:
    """`run_pass` without regions: torch 2.14 takes no weights of torchao's types into a region."""
    return run_pass(plan, streams, keys, attend, regions=False)


def run_live_pass(
    plan: Sequence[LayerPlan],
    streams: Sequence[Inside],
    keys: Sequence[Sequence[Keys]],
    attend: Attend = attention,
    *,
    recompute: bool = False,
) -> PassResult:
    """`run_pass` where each layer computes its modulation and text keys: for training.

    With `recompute` layers keep only the tokens that enter them, and run again in the backward
    pass (activation checkpointing): the memory of one layer, for a third more work.
    """
    result = PassResult(_entering(streams), [], [])
    for layer, step in enumerate(plan):
        at = step.active
        parts = (
            [streams[i].blocks[layer] for i in at],
            [streams[i].modulation for i in at],
            [streams[i].level_index for i in at],
            [streams[i].rotary for i in at],
            [streams[i].text for i in at],
            keys[layer],
            attend,
        )
        given = [result.tokens[i] for i in at]
        if recompute and torch.is_grad_enabled():
            out = checkpoint(_live_layer, step, given, *parts, use_reentrant=False)
        else:
            out = _live_layer(step, given, *parts)
        _advance(step, out, result)
    return result


def _text_kv_at(stream: Inside, layer: int) -> TextKV | None:
    """Keys and values of the prompt in one layer."""
    return None if stream.text_kv is None else stream.text_kv[layer]


def _entering(streams: Sequence[Inside]) -> list[Tensor]:
    """The streams' tokens; in compiled code copies of them.

    A region must not be given one tensor twice, least of all in its first call: torch 2.14 takes
    the same two arguments for one in every later call. And so all layers have tokens of a kind.
    """
    if not torch.compiler.is_compiling():
        return [stream.tokens for stream in streams]
    return [s.tokens.clone(memory_format=torch.contiguous_format) for s in streams]


def _advance(step: LayerPlan, out: list[Tensor], result: PassResult) -> None:
    """Take in what a layer returned: next tokens, then keys and values."""
    count = 0 if step.kv_only else len(step.active)
    for i, x in zip(step.active[:count], out[:count], strict=True):
        result.tokens[i] = x
    result.collected.append(out[count:])
    if step.hidden:
        result.hidden.append(list(result.tokens))


def _layer(
    plan: LayerPlan,
    blocks: Sequence[Any],
    tokens: Sequence[Tensor],
    modulation: Sequence[Tensor | None],
    rotary: Sequence[PositionCond],
    text_kv: Sequence[TextKV | None],
    keys: Sequence[Keys],
    attend: Attend,
) -> list[Tensor]:
    """One layer of all active streams: next tokens of each, then keys and values to collect."""
    queries, new, carries = [], [], []
    for block, x, rows, angles in zip(blocks, tokens, modulation, rotary, strict=True):
        (q, k, v), carry = block.pre_attention(x, rows, angles)
        queries.append(q)
        new.append((k, v))
        carries.append(carry)
    kept = [x for _, slices in plan.collect for x in _gather(slices, new)]
    if torch.compiler.is_compiling():  # what a region returns must not share memory
        kept = [x.clone() for x in kept]
    if plan.kv_only:
        return kept
    found = [_keys_of(wanted, new, have) for wanted, have in zip(plan.key_sets, keys, strict=True)]
    out = []
    for block, q, groups, carry, rows, text in zip(
        blocks, queries, plan.queries, carries, modulation, text_kv, strict=True
    ):
        attended = attend_groups(q, groups, found, attend)
        out.append(block.post_attention(attended, carry, rows, text))
    return out + kept


compiled_layer = torch.compiler.nested_compile_region(_layer)


def _live_layer(
    plan: LayerPlan,
    tokens: Sequence[Tensor],
    blocks: Sequence[Any],
    modulation: Sequence[Any],
    level_index: Sequence[Tensor],
    rotary: Sequence[PositionCond],
    text: Sequence[TextCond | None],
    keys: Sequence[Keys],
    attend: Attend,
) -> list[Tensor]:
    """The same, with what follows from levels and prompt computed here."""
    rows = [
        live_rows(block, live.sigma, index)
        for block, live, index in zip(blocks, modulation, level_index, strict=True)
    ]
    text_kv = [
        None if cond is None or plan.kv_only else block.text_kv(cond)
        for block, cond in zip(blocks, text, strict=True)
    ]
    return _layer(plan, blocks, tokens, rows, rotary, text_kv, keys, attend)


def attend_groups(
    q: Tensor,
    groups: Sequence[QueryGroup],
    keys: Sequence[tuple[Tensor, Tensor, Tensor | None]],
    attend: Attend = attention,
) -> Tensor:
    """Attention of a stream's queries, group by group: [B, S, H * E]."""
    parts = q.split([group.length for group in groups], 2) if len(groups) > 1 else [q]
    found = [
        attend(part, *keys[g.key_set], causal=True) if g.causal else attend(part, *keys[g.key_set])
        for part, g in zip(parts, groups, strict=True)
    ]
    whole = found[0] if len(found) == 1 else torch.cat(found, 2)
    return whole.transpose(1, 2).flatten(2)


Pairs = Sequence[tuple[Tensor, Tensor]]


def _keys_of(wanted: KeySet, new: Pairs, known: Keys) -> tuple[Tensor, Tensor, Tensor | None]:
    """The keys and values of a set: written behind what is cached, if anything is."""
    if known.k is None or known.v is None:
        return *_gather(wanted.slices, new), known.mask
    if not wanted.slices:
        return known.k, known.v, known.mask
    if torch.is_grad_enabled():
        k, v = _gather(wanted.slices, new)
        return torch.cat([known.k, k], 2), torch.cat([known.v, v], 2), known.mask
    start = known.k.shape[2] - wanted.new
    for s in wanted.slices:
        for buffer, x in zip((known.k, known.v), new[s.stream], strict=True):
            buffer.narrow(2, start, s.length).copy_(x.narrow(2, s.start, s.length))
        start += s.length
    return known.k, known.v, known.mask


def _gather(slices: Sequence[KeySlice], new: Pairs) -> tuple[Tensor, Tensor]:
    """Keys and values of some slices in a row."""
    pairs = [
        tuple(
            x if s.length == x.shape[2] else x.narrow(2, s.start, s.length) for x in new[s.stream]
        )
        for s in slices
    ]
    k, v = zip(*pairs, strict=True)
    return (k[0], v[0]) if len(pairs) == 1 else (torch.cat(k, 2), torch.cat(v, 2))


def attend_text(q: Tensor, kv: KV, attend: Attend = attention) -> Tensor:
    """Cross-attention of queries [B, H, S, E] to the prompt: [B, S, H * E]."""
    return attend(q, kv.k, kv.v, kv.mask).transpose(1, 2).flatten(2)
