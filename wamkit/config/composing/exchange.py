"""A part in another's place: which settings hold on, and which do not, with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from ...errors import WamkitError
from ..overrides import OWN
from ..parts import Part, VariantBackbone
from ..registry import registry
from .draft import Draft, Dropped


def exchange_part(draft: Draft, kind: str, table: Mapping[str, Any]) -> None:
    """Put the part of `table` where the draft has another, with the settings that still hold."""
    old = draft.raw.get(kind)
    if not isinstance(old, Mapping) or "name" not in old:
        draft.raw[kind] = {**(old or {}), **table}
        return
    draft.raw[kind] = dict(table)
    carry_over(draft, kind, old)


def carry_over(draft: Draft, kind: str, old: Mapping[str, Any]) -> None:
    """Give the part that the draft has now those settings of `old` that hold for it too."""
    table = draft.raw[kind]
    try:
        cls = registry().get(kind, str(table.get("name")))
    except WamkitError:  # the check reports it
        return
    kept: dict[str, Any] = {}
    for key, value in old.items():
        if key == "name" or key in table:
            continue
        if why := _objection(cls, key, value, old, table):
            draft.dropped.append(Dropped(f"{kind}.{key}", value, why))
        else:
            kept[key] = value
            draft.carried.add(f"{kind}.{key}")
    draft.raw[kind] = {**table, **kept}


def _objection(
    cls: type[Part], key: str, value: Any, old: Mapping[str, Any], table: Mapping[str, Any]
) -> str:
    """Why a setting does not hold for another part; empty if it does."""
    name = table["name"]
    if key in OWN:
        return f"it belongs to {old.get('name')}"
    if key not in cls.model_fields:
        return f"{name} has no such key"
    sizes = cls.sizes.values() if issubclass(cls, VariantBackbone) else ()
    if any(key in fields for fields in sizes):
        return f"a size that the variant of {name} sets"
    try:
        cls.model_validate({**table, key: value})
    except ValidationError:
        return f"{name} does not take that value"
    return ""
