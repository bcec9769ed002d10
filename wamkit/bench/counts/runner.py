"""Counts what a pass costs besides its self-attention, each kind of layer once.

Self-attention follows from the attention plan alone, so that the page computes it. All else is
measured: a pass runs on the meta device, where layers of one kind run once and count as often as
they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from types import NoneType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ...config.visibility import LayerVisibility, freeze
from ...engine import attention as layers
from ...engine.attention_plan import LayerPlan, plan_pass
from ...engine.conditioning import ModulationTable, TextCond, TextKV
from ...engine.kv_cache import KVCache, bind_keys, collect_cache
from ...engine.passes import PassRunner
from ...engine.text import Text
from ...policy.cost import Counter

Spent = tuple[int, int]
"""Operations, and bytes read and written."""


class CountingRunner(PassRunner):
    """Runs passes on the meta device, and says what they spend besides self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.counter = Counter()
        self._attention = (0, 0)
        self._calls: dict[Any, tuple[Any, Spent]] = {}
        self._kinds: dict[int, tuple[Any, int]] = {}
        self._known: dict[Any, int] = {}

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """A pure function, as it is."""
        return function(*args)

    def run(
        self,
        streams: Sequence[layers.Stream],
        sees: LayerVisibility,
        *,
        attend: layers.Attend = layers.attention,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
        hidden: Collection[int] = (),
        prefill: bool = False,
    ) -> tuple[list[Tensor], KVCache]:
        """As that of every runner; equal layers run once, and share what they leave behind."""
        shapes = tuple(tuple((s.name, s.length) for s in stream.segments) for stream in streams)
        active = tuple(tuple(block is not None for block in s.blocks) for s in streams)
        known = () if cache is None else cache.names_by_layer
        plan = plan_pass(
            *(shapes, active, freeze(sees), known),
            *(frozenset(keep), frozenset(hidden), prefill),
            next((s.views_apart for s in streams if s.views_apart), ()),
        )
        segments = [stream.segments for stream in streams]
        tokens = [stream.tokens for stream in streams]
        rows = [stream.modulation.gather(stream.level_index) for stream in streams]  # type: ignore[union-attr]
        done: dict[Any, tuple[list[Tensor], dict[str, Any], Spent, Spent]] = {}
        kept, states = [], []
        for layer, step in enumerate(plan):
            blocks = [streams[i].blocks[layer] for i in step.active]
            key = id(step), tuple(self._kind(block) for block in blocks)
            if key not in done:
                old = None if cache is None else KVCache([cache.layers[layer]])
                keys = bind_keys([step], segments, old, tokens[0])[0]
                given = (
                    blocks,
                    [tokens[i] for i in step.active],
                    [rows[i][layer] for i in step.active],
                    [streams[i].rotary for i in step.active],
                    [
                        None if (kv := streams[i].text_kv) is None else kv[layer]
                        for i in step.active
                    ],
                    keys,
                )
                done[key] = self._layer(step, given, segments, attend)
            else:
                self._add(done[key][2], done[key][3])
            out, left, *_ = done[key]
            if not step.kv_only:
                for i, x in zip(step.active, out[: len(step.active)], strict=True):
                    tokens[i] = x
            kept.append(left)
            states.append(_by_role(segments, tokens) if step.hidden else {})
        return tokens, KVCache(kept, states if hidden else [])

    def _layer(
        self, step: LayerPlan, given: tuple[Any, ...], segments: Any, attend: layers.Attend
    ) -> tuple[list[Tensor], dict[str, Any], Spent, Spent]:
        """One layer: its tokens, what it keeps, what it spends and what of that is attention."""
        attended = [0, 0]

        def counted(*args: Any, **options: Any) -> Tensor:
            before = self._spent
            found = attend(*args, **options)
            for i, spent in enumerate(self._since(before)):
                attended[i] += spent
            return found

        before = self._spent
        out = layers._layer(step, *given, counted)  # type: ignore[call-arg]
        spent = self._since(before)
        count = 0 if step.kv_only else len(step.active)
        (left,) = collect_cache([step], segments, [out[count:]])
        self._attention = self._attention[0] + attended[0], self._attention[1] + attended[1]
        return out, left, spent, (attended[0], attended[1])

    def text(
        self, stack: Any, blocks: Sequence[Any], text: Text, kind: str = "blocks"
    ) -> tuple[TextCond | None, tuple[TextKV | None, ...] | None]:
        """As that of every runner, of one block of a kind where it is computed once a prompt."""
        if text.suffix is not None:
            return super().text(stack, blocks, text, kind)
        first, place = self._first_of_kind(blocks)
        cond, found = super().text(stack, first, text, f"{kind} once")
        return cond, None if found is None else tuple(found[i] for i in place)

    def _table(self, blocks: Sequence[Any], cond: Any) -> ModulationTable:
        first, place = self._first_of_kind(blocks)
        table = super()._table(first, cond)
        return ModulationTable(table.tables, tuple(table.place[i] for i in place))

    def _first_of_kind(self, blocks: Sequence[Any]) -> tuple[list[Any], list[int]]:
        """One block of each kind, and for every block which of these is of its kind."""
        first: dict[int, Any] = {}
        kinds = [self._kind(block) for block in blocks]
        for kind, block in zip(kinds, blocks, strict=True):
            first.setdefault(kind, block)
        order = list(first)
        return list(first.values()), [order.index(kind) for kind in kinds]

    def _kind(self, block: Any) -> int:
        """A number for modules of one class with parameters of the same shapes."""
        if id(block) not in self._kinds:
            found: list[Any] = [type(block)]
            if isinstance(block, nn.Module):
                found += [(type(m), m.extra_repr()) for m in block.modules()]
                found += [(name, _shape(x)) for name, x in block.named_parameters()]
            elif block is not None:
                found.append(id(block))
            number = self._known.setdefault(tuple(found), len(self._known))
            self._kinds[id(block)] = block, number
        return self._kinds[id(block)][1]

    @property
    def _spent(self) -> Spent:
        return self.counter.operations, self.counter.bytes

    def _since(self, before: Spent) -> Spent:
        now = self._spent
        return now[0] - before[0], now[1] - before[1]

    def _add(self, spent: Spent, attended: Spent = (0, 0)) -> None:
        self.counter.operations += spent[0]
        self.counter.bytes += spent[1]
        self._attention = self._attention[0] + attended[0], self._attention[1] + attended[1]

    @contextmanager
    def counting(self) -> Iterator[Callable[[], Spent]]:
        """Count inside, and ask for operations and bytes besides self-attention so far."""
        start, attended = self._spent, self._attention

        def rest() -> Spent:
            whole, own = self._since(start), self._attention
            return whole[0] - own[0] + attended[0], whole[1] - own[1] + attended[1]

        with torch.no_grad(), self.counter, self._modules():
            yield rest

    @contextmanager
    def _modules(self) -> Iterator[None]:
        """Modules called inside run once for each kind and set of shapes."""
        call = nn.Module.__call__

        def known(module: nn.Module, *args: Any, **options: Any) -> Any:
            leaves: Any = args if not options else (*args, *options, *options.values())
            if any(isinstance(x, list | tuple | dict) for x in leaves):
                leaves = tree_leaves((args, options))
            if not all(isinstance(x, Tensor | int | float | str | NoneType) for x in leaves):
                return call(module, *args, **options)
            key = self._kind(module), tuple(_shape(x) for x in leaves)
            if key not in self._calls:
                before = self._spent
                out = call(module, *args, **options)
                self._calls[key] = out, self._since(before)
                return out
            out, spent = self._calls[key]
            self._add(spent)
            if isinstance(out, Tensor):
                return torch.empty_like(out)
            return tree_map_only(Tensor, torch.empty_like, out)

        nn.Module.__call__ = known  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = call  # type: ignore[method-assign]


def _by_role(segments: Sequence[Sequence[Any]], tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    found: dict[str, list[Tensor]] = {}
    for row, x in zip(segments, tokens, strict=True):
        for segment, part in zip(row, x.split([s.length for s in row], 1), strict=True):
            found.setdefault(segment.role, []).append(part)
    return {role: torch.cat(parts, 1) for role, parts in found.items()}


def _shape(x: Any) -> Any:
    return (tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x


@contextmanager
def no_random_weights() -> Iterator[None]:
    """Modules made inside draw no weights, which on the meta device takes most of the time."""
    names = [n for n in vars(nn.init) if n.endswith("_") and not n.startswith("_")]
    kept = {name: getattr(nn.init, name) for name in names}
    for name in names:
        setattr(nn.init, name, lambda tensor, *args, **options: tensor)
    try:
        yield
    finally:
        for name, function in kept.items():
            setattr(nn.init, name, function)
