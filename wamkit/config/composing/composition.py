"""From a request to a spec that fits, or to the reasons why there is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..check import check, warnings_of
from ..parts import KINDS, Caution, Conflict
from .candidates import TOY_SIZE, choose_parts, try_part, variants_of
from .draft import Choice, Draft, Dropped
from .exchange import carry_over
from .request import Request
from .robot_defaults import fill_robot, keep_span


@dataclass(frozen=True)
class Composition:
    """What a request became."""

    draft: Draft
    conflicts: tuple[Conflict, ...]
    """Why it cannot be built; empty if it can."""
    missing: tuple[Conflict, ...]
    """Files and modules that are not on this machine."""
    cautions: tuple[Caution, ...]
    """What fits and may yet not do what one expects."""

    @property
    def raw(self) -> dict[str, Any]:
        """The tables of the spec, in the usual order."""
        order = (*KINDS, "actions", "state", "cameras", "video", "schedules")
        found = self.draft.raw
        scalars = {key: value for key, value in found.items() if not isinstance(value, Mapping)}
        tables = {key: found[key] for key in order if found.get(key)}
        return {**scalars, **tables, **{k: v for k, v in found.items() if k not in scalars}}

    @property
    def choices(self) -> Sequence[Choice]:
        """Every value that nobody asked for, in the order of the spec."""
        tops = ["dtype", *self.raw]
        return sorted(self.draft.choices, key=lambda c: tops.index(c.key.partition(".")[0]))

    @property
    def dropped(self) -> Sequence[Dropped]:
        """What does not hold any more of the spec that was begun from."""
        return self.draft.dropped


def compose_spec(request: Request) -> Composition:
    """Choose what `request` leaves open so that it fits.

    Raises WamkitError if a path of the request leads nowhere.
    """
    draft = request.draft()
    kept = {k: draft.raw.pop(k) for k in KINDS if k in draft.raw and k not in draft.typed}
    known = set(warnings_of(request.base)) if kept else set()
    for kind in KINDS:
        if kind in draft.raw:
            continue
        if kind in kept:
            _keep(draft, kind, kept[kind], known)
        else:
            choose_parts(draft, kind)
    _write_variant(draft)
    fill_robot(draft)
    conflicts = draft.mend()
    keep_span(draft, request.base.get("video", {}))
    found = check(draft.raw)
    return Composition(
        draft,
        tuple(conflicts),
        tuple(c for c in found if c.missing),
        tuple(warnings_of(draft.raw)),
    )


def _write_variant(draft: Draft) -> None:
    """Write the usual variant of the backbone out, so that the file keeps its sizes."""
    table, part = draft.raw.get("backbone"), draft.part("backbone")
    if not isinstance(table, dict) or part is None or {"variant", "weights"} & table.keys():
        return
    usual, *others = [v for v in variants_of(type(part)) if v != TOY_SIZE] or [""]
    if usual and getattr(part, "variant", None) == usual:
        more = f"; there are {len(others)} more (`wamkit show backbone {part.name}`)"
        draft.choose("backbone.variant", usual, f"the usual one{more if others else ''}")
        draft.raw["backbone"] = {"name": table["name"], "variant": usual, **table}


def _keep(draft: Draft, kind: str, table: dict[str, Any], known: set[Caution]) -> None:
    """Leave a part of the base in its place if it fits, or else choose another one."""
    before = draft.conflicts()
    trial, left = try_part(draft, kind, table)
    against: list[Any] = [conflict for conflict in left if conflict not in before]
    against += [c for c in warnings_of(trial.raw) if c not in known and kind in c.between]
    if not against:
        draft.raw[kind] = table
        return
    choose_parts(draft, kind, against[0].why)
    carry_over(draft, kind, table)
