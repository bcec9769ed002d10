"""Options that come with a published system alone: the page offers none and follows none.

A system that has some is shown with what Python finds of it as a whole; once anything is changed on
the page, they are left out of the spec, and the page says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from ...config.check import check
from ...config.parts import KINDS
from ...config.registry import registry
from ...config.spec import PolicySpec
from ...files import strict_json

BROUGHT: Mapping[str, tuple[str, ...]] = {
    "cameras": ("encode", "fill"),
    "video": ("episode_latents", "new_clip", "new_images"),
    "schedules.*": ("evaluate_steps",),
}
"""Table of a spec that is no part's -> its keys; a part states its own (`Part.system_options`)."""


def without(section: str, table: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A table of a spec without options that come with a system, and the names of those it had."""
    kept, had = dict(table), []
    for key in _brought(section, table):
        if key in kept:
            del kept[key]
            had.append(f"{section}.{key}")
    if section == "schedules":
        for modality in [key for key, value in kept.items() if isinstance(value, Mapping)]:
            own = dict(kept[modality])
            for key in BROUGHT["schedules.*"]:
                if key in own:
                    del own[key]
                    had.append(f"schedules.{modality}.{key}")
            kept[modality] = own
    return kept, had


def _brought(section: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """Keys of a table that only a published system sets."""
    if section not in KINDS:
        return BROUGHT.get(section, ())
    part = registry().parts[section].get(table.get("name", ""))
    return () if part is None else part.system_options


def followed(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """A spec as read, without options that come with a system, and the names of those it had."""
    kept: dict[str, Any] = {}
    names: list[str] = []
    for section, value in raw.items():
        kept[section] = value
        if isinstance(value, Mapping):
            kept[section], had = without(section, value)
            names += had
    return kept, names


def whole(spec: PolicySpec) -> dict[str, Any]:
    """What Python finds of a system: its conflicts, tokens, parameters of the head, and costs."""
    from ...policy.cost import cost
    from .._params import parameters

    spent = {}
    for mode, act_options in spec.paradigm.variants.items():
        found = cost(spec, **act_options)
        spent[mode] = {
            "passes": found.passes,
            "operations": found.operations,
            "bytes": found.bytes,
        }
    return {
        "conflicts": [c.model_dump(mode="json") for c in check(spec) if not c.missing],
        "tokens": spec.tokens(),
        "head": parameters(spec.action_head, spec.sizes),
        "cost": spent,
    }


def whole_key(raw: Mapping[str, Any]) -> str:
    """What tells a system from all others: what its spec says."""
    known = {key: value for key, value in raw.items() if key not in ("format", *KINDS)}
    text = strict_json.dumps([known, {kind: raw[kind] for kind in KINDS}])
    return sha256(text.encode()).hexdigest()[:12]
