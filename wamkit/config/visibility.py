"""Visibility: the attention mask as a table of roles, and derived facts. No torch here.

table            {"context": {"context"}, "action": {"context", "action"}}
by layer         [(range(0, 8), alone), (range(8, 24), together)]    FLUX 3 Action
causal row       {"text": causal("text")}     a token attends to itself and earlier ones
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

Visibility = Mapping[str, Collection[str]]
"""role -> the roles that its tokens attend to. A role that is absent from a pass is skipped."""

LayerVisibility = Visibility | Sequence[tuple[range, Visibility]]
"""One table for all layers, or tables for ranges of layers; where ranges overlap the last holds."""


class CausalRow(frozenset[str]):
    """A row of the table of a role that attends to itself causally; to others as any row."""


def causal(*roles: str) -> CausalRow:
    """The row of a causal role, which names the role itself and the others it attends to."""
    return CausalRow(roles)


class Row(NamedTuple):
    """A row of a frozen table."""

    role: str
    seen: frozenset[str]
    causal: bool = False


Table = tuple[Row, ...]
"""A table that can be hashed and compared."""

LayerTables = tuple[tuple[range, Table], ...]
"""Frozen tables and their layers; as one, that of all layers."""

EVERY_LAYER = range(1_000_000)


def freeze(sees: LayerVisibility) -> LayerTables:
    """Visibility as a value that can be hashed."""
    ranges = [(EVERY_LAYER, sees)] if isinstance(sees, Mapping) else sees
    return tuple(
        (
            layers,
            tuple(
                Row(role, frozenset(seen), isinstance(seen, CausalRow))
                for role, seen in table.items()
            ),
        )
        for layers, table in ranges
    )


def table_at(tables: LayerTables, layer: int) -> dict[str, Row]:
    """The rows of a layer, by role. Raises ValueError if no range covers the layer."""
    found = [table for layers, table in tables if layer in layers]
    if not found:
        raise ValueError(f"no visibility table covers layer {layer}")
    return {row.role: row for row in found[-1]}


def union(sees: LayerVisibility) -> dict[str, frozenset[str]]:
    """role -> the roles that it attends to at any layer."""
    if isinstance(sees, Mapping):
        return {role: frozenset(seen) for role, seen in sees.items()}
    found: dict[str, frozenset[str]] = {}
    for _, table in sees:
        for role, seen in table.items():
            found[role] = found.get(role, frozenset()) | frozenset(seen)
    return found


def everyone(roles: Iterable[str]) -> dict[str, frozenset[str]]:
    """Full visibility: each role attends to all of `roles`."""
    every = frozenset(roles)
    return dict.fromkeys(every, every)


def followed(sees: LayerVisibility, present: Collection[str]) -> dict[str, frozenset[str]]:
    """What changes what, where text has the noise level of the target frames that are present.

    As `sees`, but text changes with the target frames as if it attended to them.
    """
    table = union(sees)
    targets = {role for role in present if role.partition(".")[0] == "target"}
    return {**table, "text": table.get("text", frozenset()) | targets}


def cacheable_subset(
    roles: Collection[str], sees: LayerVisibility, present: Collection[str]
) -> frozenset[str]:
    """The largest subset of `roles` that attends to nothing else among the roles `present`.

    One pass over it can be kept: nothing outside changes its keys and values.
    """
    table, kept = union(sees), set(roles)
    while True:
        open_ = {r for r in kept if not (set(table.get(r, ())) & set(present)) <= kept}
        if not open_:
            return frozenset(kept)
        kept -= open_
