"""The attention plan of a pass: which queries attend to which keys, as plain values.

Made once for the shapes of a pass, without tensors, and hashable: layers with equal plans run the
same code.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from ..config.visibility import LayerTables, Row, table_at
from ..errors import WamkitError


class KeySlice(NamedTuple):
    """Neighboring tokens of one stream."""

    stream: int  # among those that are active at the layer
    start: int
    length: int


class KeySet(NamedTuple):
    """Keys that some queries attend to: cached roles first, then slices of this pass."""

    cached: tuple[str, ...]
    slices: tuple[KeySlice, ...]

    @property
    def new(self) -> int:
        """How many keys this pass adds."""
        return sum(s.length for s in self.slices)


class QueryGroup(NamedTuple):
    """Neighboring queries of a stream that attend to the same keys."""

    length: int
    key_set: int  # index among those of the layer
    causal: bool = False  # the queries' own keys are the last ones; each sees up to its own


class LayerPlan(NamedTuple):
    """One layer of a pass."""

    active: tuple[int, ...]  # streams that have a block here
    queries: tuple[tuple[QueryGroup, ...], ...]  # of each active stream
    key_sets: tuple[KeySet, ...]
    collect: tuple[tuple[str, tuple[KeySlice, ...]], ...]  # roles whose keys and values are kept
    kv_only: bool = False  # whether the layer ends at its keys and values
    hidden: bool = False  # whether the tokens behind this layer are kept


Shape = tuple[tuple[str, int], ...]
"""The segments of a stream: name and length of each. A name is a role, or `role@view`."""


def role_of(name: str) -> str:
    """The role in the name of a segment."""
    return name.partition("@")[0]


def _view_of(name: str) -> str:
    """The camera view in the name of a segment; empty if it belongs to none."""
    return name.partition("@")[2]


@lru_cache(maxsize=512)
def plan_pass(
    shapes: tuple[Shape, ...],
    active: tuple[tuple[bool, ...], ...],
    tables: LayerTables,
    cached: tuple[tuple[str, ...], ...] = (),
    collect: frozenset[str] = frozenset(),
    hidden: frozenset[int] = frozenset(),
    prefill: bool = False,
    apart: tuple[bool, ...] = (),
) -> tuple[LayerPlan, ...]:
    """The layers of a pass over streams of these segments.

    Args:
        shapes: Name and length of each segment, for each stream.
        active: For each stream and layer, whether the stream has a block there.
        tables: Visibility, as `freeze` makes it.
        cached: For each layer, the names that an earlier pass left; () for none.
        collect: Roles whose keys and values are kept.
        hidden: Layers whose outputs are kept.
        prefill: Nothing but what is kept is wanted, so the last layer ends at its keys.
        apart: For each layer, whether tokens of a view attend to no other view; () for nowhere.

    Raises:
        WamkitError: A role is present that the table has no row for.
    """
    depth = len(active[0])
    plans: dict[LayerPlan, LayerPlan] = {}
    found = []
    for layer in range(depth):
        here = tuple(i for i, has_block in enumerate(active) if has_block[layer])
        table = table_at(tables, layer)
        _expect_rows(shapes, table)
        known, split = cached[layer] if cached else (), bool(apart) and apart[layer]
        plan = _plan_layer(shapes, here, table, known, collect, apart=split)
        ends = prefill and layer == depth - 1 and layer not in hidden
        plan = plan._replace(kv_only=ends, hidden=layer in hidden)
        found.append(plans.setdefault(plan, plan))
    return tuple(found)


def _expect_rows(shapes: Sequence[Shape], table: dict[str, Row]) -> None:
    unknown = {role_of(name) for shape in shapes for name, _ in shape} - set(table)
    if unknown:
        raise WamkitError(
            f"the visibility table has no row for {', '.join(sorted(unknown))}; "
            f"it speaks of {', '.join(sorted(table))}",
            "add a row for it to the paradigm's `sees`",
        )


def _plan_layer(
    shapes: Sequence[Shape],
    active: tuple[int, ...],
    table: dict[str, Row],
    cached: Sequence[str],
    collect: frozenset[str],
    *,
    apart: bool,
) -> LayerPlan:
    here: dict[str, list[KeySlice]] = {}
    for place, stream in enumerate(active):
        start = 0
        for name, length in shapes[stream]:
            here.setdefault(name, []).append(KeySlice(place, start, length))
            start += length
    key_sets: dict[KeySet, int] = {}

    def index_of(row: Row, view: str) -> int:
        def seen(name: str) -> bool:
            return role_of(name) in row.seen and (not view or _view_of(name) in ("", view))

        names = [name for name in here if seen(name) and not (row.causal and name == row.role)]
        names += [row.role] if row.causal and row.role in here else []  # its own keys come last
        slices = _merged([s for name in names for s in here[name]])
        old = tuple(name for name in cached if seen(name) and name not in here)
        return key_sets.setdefault(KeySet(old, slices), len(key_sets))

    queries = []
    for stream in active:
        groups: list[QueryGroup] = []
        rows = [
            (table[role_of(name)], _view_of(name) if apart else "", length)
            for name, length in shapes[stream]
        ]
        for _, run in groupby(rows, key=lambda x: (x[0] if x[0].causal else x[0].seen, x[1])):
            found = list(run)
            (row, view, _), length = found[0], sum(n for *_, n in found)
            assert not (row.causal and len(here[row.role]) > 1), (
                f"the causal role {row.role} must be one segment"
            )
            at = index_of(row, view)
            if groups and groups[-1].key_set == at and not (row.causal or groups[-1].causal):
                length += groups.pop().length
            groups.append(QueryGroup(length, at, row.causal))
        queries.append(tuple(groups))
    kept = tuple((name, _merged(found)) for name, found in here.items() if role_of(name) in collect)
    return LayerPlan(active, tuple(queries), tuple(key_sets), kept)


def _merged(slices: Sequence[KeySlice]) -> tuple[KeySlice, ...]:
    """The same tokens, neighbors as one slice."""
    found: list[KeySlice] = []
    for s in slices:
        last = found[-1] if found else None
        if last is not None and (last.stream, last.start + last.length) == (s.stream, s.start):
            found[-1] = KeySlice(s.stream, last.start, last.length + s.length)
        else:
            found.append(s)
    return tuple(found)
