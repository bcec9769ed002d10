"""What networks make of noise levels and prompt, computed once and looked up in every step.

    sigmas [R]  --embed_sigma, block.modulation-->  tables [R, U, ...]          once
    tables, level_index [B or 1, G]  --gather-->  [B or 1, G, ...] of each layer   every step

A step changes the index alone. With gradients, and where the weights of a block are there only
while it runs, each block computes its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .kv_cache import KV
from .text import additive_mask

SigmaCond = Any
"""What a family makes of noise levels: a NamedTuple of tensors [R, ...]. Opaque to the engine."""

PositionCond = Any
"""What a family makes of positions, such as cos and sin of rotary angles. Opaque to the engine."""


class TextCond(NamedTuple):
    """A prompt as the blocks read it; what is absent is None."""

    tokens: Tensor | None  # [B, L, D], or [B, L, text width] if blocks project it themselves
    mask: Tensor | None = None  # [B, L], added to attention scores
    image: Tensor | None = None  # [B, L', D] image tokens next to the prompt


class TextKV(NamedTuple):
    """Keys and values that a block's cross-attention reads; what is absent is None."""

    text: KV | None = None  # of the prompt; its mask is additive
    image: KV | None = None  # of image tokens, read by an attention of their own
    cond: TextCond | None = None  # the prompt itself, where keys follow the noise level


class ModulationTable(NamedTuple):
    """Modulation of all layers at all levels of a run; layers that share one are stored once."""

    tables: tuple[Tensor, ...]  # [R, U, ...] each, one for each shape of a row
    place: tuple[tuple[int, int] | None, ...]  # of each layer: table, and entry among its U

    def gather(self, level_index: Tensor) -> list[Tensor | None]:
        """The rows of each layer [B or 1, G, ...], with one index_select for each table."""
        index, shape = level_index.flatten(), level_index.shape
        found = [
            table.index_select(0, index).unflatten(0, shape).unbind(2) for table in self.tables
        ]
        return [None if at is None else found[at[0]][at[1]] for at in self.place]


class LiveModulation(NamedTuple):
    """Noise levels that every block looks at when it runs."""

    sigma: SigmaCond


def precompute_modulation(
    blocks: Sequence[Any], sigma: SigmaCond, *, separate: bool = False
) -> ModulationTable:
    """The modulation of every block (or of anything with a method `modulation`) at all levels.

    Args:
        blocks: None where a stream rests.
        sigma: What their stack made of the levels.
        separate: A table for each layer, and not one for all. Rows of one table differ in where
            they begin in memory, and compiled layers are the same code only if theirs do not.
    """
    unique: list[Tensor] = []
    groups: dict[Any, list[int]] = {}  # shape and dtype of a row -> entries of `unique`
    place: list[tuple[Any, int] | None] = []
    for block in blocks:
        rows = None if block is None else block.modulation(sigma)  # [R, ...]
        if rows is None:
            place.append(None)
            continue
        at = next((i for i, other in enumerate(unique) if other is rows), len(unique))
        if at == len(unique):
            unique.append(rows)
        key = tuple(rows.shape[1:]), rows.dtype, at if separate else None
        group = groups.setdefault(key, [])
        if at not in group:
            group.append(at)
        place.append((key, group.index(at)))
    tables = tuple(torch.stack([unique[i] for i in group], 1) for group in groups.values())
    order = {key: i for i, key in enumerate(groups)}
    return ModulationTable(
        tables, tuple(None if at is None else (order[at[0]], at[1]) for at in place)
    )


def live_rows(block: Any, sigma: SigmaCond, level_index: Tensor) -> Tensor | None:
    """The modulation of one block, computed now [B or 1, G, ...]."""
    rows = block.modulation(sigma)
    if rows is None:
        return None
    return rows.index_select(0, level_index.flatten()).unflatten(0, level_index.shape)  # type: ignore[no-any-return]


def precompute_text_kv(blocks: Sequence[Any], text: TextCond | None) -> tuple[TextKV | None, ...]:
    """Keys and values of the prompt for every layer."""
    if text is None:
        return (None,) * len(blocks)
    found = [None if block is None else block.text_kv(text) for block in blocks]
    return tuple(None if kv is None else _detached(kv) for kv in found)


def _detached(kv: TextKV) -> TextKV:
    return kv._replace(
        text=None if kv.text is None else kv.text.detached(),
        image=None if kv.image is None else kv.image.detached(),
    )


def join_text_kv(
    parts: Sequence[tuple[TextKV | None, ...]],
) -> tuple[TextKV | None, ...]:
    """What several parts of a text gave in each layer, put together: prompt, suffix, image."""
    if len(parts) == 1:
        return parts[0]
    return tuple(
        _join([kv for kv in layer if kv is not None]) for layer in zip(*parts, strict=True)
    )


def _join(found: Sequence[TextKV]) -> TextKV | None:
    if not found:
        return None
    texts = [kv.text for kv in found if kv.text is not None]
    images = [kv.image for kv in found if kv.image is not None]
    conds = [kv.cond for kv in found if kv.cond is not None]
    return TextKV(
        _join_kv(texts) if texts else None,
        _join_kv(images) if images else None,
        join_text_cond(conds) if conds else None,
    )


def _join_kv(parts: Sequence[KV]) -> KV:
    if len(parts) == 1:
        return parts[0]
    k, v = torch.cat([p.k for p in parts], 2), torch.cat([p.v for p in parts], 2)
    return KV(k, v, _join_additive([(p.mask, p.k.shape[2]) for p in parts]))


def join_text_cond(parts: Sequence[TextCond]) -> TextCond:
    """Parts of a text in a row."""
    tokens = [p.tokens for p in parts if p.tokens is not None]
    image = next((p.image for p in parts if p.image is not None), None)
    if len(tokens) <= 1:
        mask = next((p.mask for p in parts if p.tokens is not None), None)
        return TextCond(tokens[0] if tokens else None, mask, image)
    masks = [(p.mask, p.tokens.shape[1]) for p in parts if p.tokens is not None]
    return TextCond(torch.cat(tokens, 1), _join_additive(masks), image)


def _join_additive(masks: Sequence[tuple[Tensor | None, int]]) -> Tensor | None:
    """Additive masks [B, S] in a row; each comes with its S."""
    like = next((mask for mask, _ in masks if mask is not None), None)
    if like is None:
        return None
    whole = torch.cat(
        [like.new_zeros(len(like), n) if mask is None else mask for mask, n in masks], 1
    )
    return additive_mask(whole, whole.dtype)
