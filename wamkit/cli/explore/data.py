"""All that the page knows, as plain data: parts, rules, stages, costs, devices and systems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ...config.alternatives import backbones_with_views
from ...config.check import check, missing_files, warnings_of
from ...config.compositions import default
from ...config.parts import KINDS, ActionHeadConfig, HeadContext, Part
from ...config.programs import level_conflicts
from ...config.registry import registry
from ...config.trained import naming_hint, strange_text_encoder, strange_vae
from ...files.install import install_hint
from .brought import whole, whole_key
from .choices import WITHOUT_SPEC, Choice, Preset, choices, part_table, spec_of
from .defaults import defaults
from .record import counted, recorded
from .rules import (
    CONTEXTS,
    STATE,
    at,
    base,
    clip_rules,
    companion_rules,
    fitted,
    head_rules,
    paradigm_rules,
)

ROLES = ("context", "state", "action", "next_state", "value")
"""Roles that a head may add tokens to."""


_STAGES: dict[Any, list[dict[str, Any]]] = {}


class Pool:
    """Values that many places share, each kept once."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def add(self, value: Any) -> int:
        """The place of a value."""
        return self._places.setdefault(repr(value), self._append(value))

    def _append(self, value: Any) -> int:
        if repr(value) not in self._places:
            self.values.append(value)
        return len(self.values) - 1


def page_data(spec: Path | None = None) -> dict[str, Any]:
    """What the page is made from; `spec` is what it begins with."""
    from ... import __version__

    offered, presets = choices(spec)
    known = recorded()
    own = [(p.parts["backbone"], p.parts["action_head"]) for p in presets]
    for group, key, value in counted(offered, known, own):
        known[group][key] = value
    reasons, costs, plans = Pool(), Pool(), Pool()
    return {
        "version": __version__,
        "devices": _devices(),
        "parts": {kind: [_part(choice, known) for choice in offered[kind]] for kind in KINDS},
        "costs": _costs(offered, known, costs),
        "companions": {
            kind: [
                [
                    [reasons.add(c) for c in companion_rules(backbone.part, other.part)]  # type: ignore[arg-type]
                    for other in offered[kind]
                ]
                for backbone in offered["backbone"]
            ]
            for kind in ("vae", "text_encoder")
        },
        "clip_rules": [clip_rules(b.part) for b in offered["backbone"]],  # type: ignore[arg-type]
        "head_rules": _head_rules(offered, reasons),
        "paradigms": _paradigms(offered, reasons, plans),
        "cautions": _cautions(offered),
        "presets": [_system(preset, offered, known) for preset in presets],
        "start": 0 if spec is not None else _usual(presets),
        "defaults": defaults(),
        "without_spec": WITHOUT_SPEC,
        "with_views": backbones_with_views(),
        "pools": {"reasons": reasons.values, "costs": costs.values, "plans": plans.values},
        **_text_rule(offered),
        "contexts": [[min(imagined, 2), int(state > 0)] for imagined, state in CONTEXTS],
    }


def _devices() -> list[dict[str, Any]]:
    from ...train.devices import PEAKS

    return [
        {
            "id": key,
            "name": peak.name,
            "bfloat16": peak.bfloat16,
            "float32": peak.float32,
            "memory": peak.memory,
            "bandwidth": peak.bandwidth,
        }
        for key, peak in PEAKS.items()
    ]


def _part(choice: Choice, known: Mapping[str, Any]) -> dict[str, Any]:
    part: Any = choice.part
    missing = missing_files(part)
    found = {
        "id": choice.key,
        "name": part.name,
        "variant": getattr(part, "variant", None),
        "origin": choice.origin,
        "table": dict(choice.table),
        "about": (type(part).__doc__ or "").strip().partition("\n")[0],
        "license": part.license,
        "source": part.source,
        "missing": f"needs {', '.join(missing)}: {install_hint(modules=missing)}"
        if missing
        else "",
    }
    if part.kind in ("backbone", "vae", "text_encoder"):
        count = known["parameters"].get(choice.key)
        found["parameters"] = count if isinstance(count, int) else None
        found["uncounted"] = count if isinstance(count, str) else ""
    return {**found, **_facts(fitted(part), known["vaes"].get(choice.key)), **_open(part)}


def _open(part: Any) -> dict[str, Any]:
    """What of a part follows the others where the spec leaves it open."""
    if part.kind == "backbone":
        specs = [base(part).model_copy(update={"vae": v}).fitted() for v in _vaes()]
        follows = all(s.backbone.traits.latent_channels == s.vae.channels for s in specs)
        return {"any_channels": follows}
    if part.kind == "text_encoder":
        widths = []
        for backbone in _backbones():
            spec = base(backbone).model_copy(update={"text_encoder": part}).fitted()
            widths.append(spec.text_encoder.width == spec.backbone.traits.text_width)
        return {"any_width": all(widths)}
    return {}


@cache
def _vaes() -> list[Any]:
    return [default(cls) for cls in registry() if cls.kind == "vae"]


@cache
def _backbones() -> list[Any]:
    return [default(cls) for cls in registry() if cls.kind == "backbone"]


def _facts(part: Any, encoding: Any) -> dict[str, Any]:
    """What rules and sizes need to know of a part of each kind."""
    if part.kind == "backbone":
        traits = part.traits
        return {
            "traits": {
                **traits.model_dump(mode="json", exclude={"trained_with"}),
                "text_follows": traits.text_follows,
            },
            "naming": {kind: naming_hint(part, kind) for kind in ("vae", "text_encoder")},
            "trained_with": traits.trained_with.model_dump(mode="json"),
        }
    if part.kind == "vae":
        return {
            "channels": part.channels,
            "stride": list(part.stride),
            "adapter": part.adapter,
            "encoding": encoding,
        }
    if part.kind == "text_encoder":
        return {"width": part.width, "max_tokens": part.max_tokens, "adapter": part.adapter}
    if part.kind == "action_head":
        return {
            "is_regression": part.is_regression,
            "exposes_tokens": part.exposes_tokens,
            "tokens": head_tokens(part),
            "black": [part.black_frames(_head_sizes(state=n))[0] for n in (0, 4)],
        }
    if part.kind == "paradigm":
        return {"continues": any("." in role for role in part.sees)}
    return {}


def _head_sizes(chunk: int = 5, action: int = 3, state: int = 0, rows: int = 2) -> HeadContext:
    """Small sizes of a robot, for what a head says of them."""
    backbone = base().backbone
    (_, p, q) = backbone.traits.patch_size
    return HeadContext(
        backbone=backbone,
        chunk=chunk,
        action=action,
        state=state,
        latent=(backbone.traits.latent_channels, rows * p, rows * q),
        frames=(1, 2),
        predicts=("action", "next_state", "value") if state else ("action", "value"),
    )


def head_tokens(head: ActionHeadConfig) -> dict[str, Any]:
    """How many tokens a head adds to each role: of N actions, with and without a state.

    role -> {"tokens": [always, for each action, with a state]}, or {"frames": [always, with a
    state]} in latent frames, or {"frames": "chunk"} for as many as the chunk fits into.
    """
    backbone = base().backbone
    (_, p, q) = backbone.traits.patch_size

    def count(chunk: int, action: int, state: int, rows: int = 2) -> Mapping[str, int]:
        return head.tokens(_head_sizes(chunk, action, state, rows))

    small, more, felt = count(5, 3, 0), count(9, 3, 0), count(5, 3, 4)
    large, frame = count(5, 3, 0, rows=4), backbone.traits.tokens(1, 2 * p, 2 * q)
    found: dict[str, Any] = {}
    for role in dict.fromkeys((*small, *felt)):
        a, b, c, d = (x.get(role, 0) for x in (small, more, felt, large))
        whole = backbone.traits.tokens(1, 4 * p, 4 * q)
        if (
            (a or c)
            and (d * frame == a * whole)
            and (a % frame == 0 and c % frame == 0)
            and (a or count(5, 3, 4, rows=4).get(role, 0) * frame == c * whole)
        ):
            huge = count(10_000, 30, 0).get(role, 0)
            grows = huge > count(5, 3, 0).get(role, 0)
            found[role] = {"frames": "chunk" if grows else [a // frame, (c - a) // frame]}
        else:
            each = (b - a) // 4
            found[role] = {"tokens": [a - 5 * each, each, c - a]}
    return found


def _costs(
    offered: Mapping[str, list[Choice]], known: Mapping[str, Any], pool: Pool
) -> list[list[int | None]]:
    """Backbone -> action head -> place among the costs."""
    rows: list[list[int | None]] = []
    for backbone in offered["backbone"]:
        row: list[int | None] = []
        for head in offered["action_head"]:
            found = known["pairs"].get(f"{backbone.key} {head.key}")
            row.append(None if found is None else pool.add(_short(found, pool)))
        rows.append(row)
    return rows


def _short(found: Mapping[str, Any], pool: Pool) -> dict[str, Any]:
    made = {key: value for key, value in found.items() if value not in ({}, None, [], [0, 0])}
    for group in ("frames", "vectors"):
        made[group] = {
            kind: [pool.add(x["operations"]), pool.add(x["bytes"])]
            for kind, x in found[group].items()
        }
    if found.get("float32"):
        made["float32"] = _short(found["float32"], pool)
    return made


def _head_rules(offered: Mapping[str, list[Choice]], reasons: Pool) -> list[list[list[list[int]]]]:
    """Backbone -> action head -> context -> places among the reasons."""
    rows = []
    for backbone in offered["backbone"]:
        row = []
        for head in offered["action_head"]:
            theirs = head_rules(head.part, backbone.part)  # type: ignore[arg-type]
            row.append([[reasons.add(c) for c in context] for context in theirs])
        rows.append(row)
    return rows


def _paradigms(
    offered: Mapping[str, list[Choice]], reasons: Pool, plans: Pool
) -> list[dict[str, Any]]:
    """What each paradigm lets see, runs and refuses, with each kind of head and of backbone."""
    from ...bench.counts.calls import stages

    heads: dict[str, Any] = {}
    for choice in offered["action_head"]:
        part: Any = choice.part
        form = (part.is_regression, part.exposes_tokens, "state" in head_tokens(part))
        heads[choice.key] = part.name, *form
    groups: dict[Any, Part] = {}
    of: list[int] = []
    for backbone in offered["backbone"]:
        traits = backbone.part.traits  # type: ignore[attr-defined]
        key = (
            *(backbone.part.name, traits.imagines, traits.frames, traits.text, traits.text_level),
            traits.depth if traits.text_follows else 0,
            traits.cond_channels > 0,
        )
        groups.setdefault(key, backbone.part)
        of.append(list(groups).index(key))
    found = []
    for paradigm in offered["paradigm"]:
        entry: dict[str, Any] = {"rules": [], "plans": [], "backbones": of}
        own: Any = paradigm.part
        entry["chunks"] = own.chunks_per_sample
        for part in groups.values():
            rules, ways = [], []
            kinds: dict[Any, tuple[Any, int]] = {}
            for head in offered["action_head"]:
                kind = heads[head.key]
                if kind not in kinds:
                    asked = paradigm_rules(paradigm.part, head.part, part)  # type: ignore[arg-type]
                    rule = [[reasons.add(c) for c in context] for context in asked]
                    kinds[kind] = rule, plans.add(_plan(paradigm, head, part, stages))
                rules.append(kinds[kind][0])
                ways.append(kinds[kind][1])
            entry["rules"].append(rules)
            entry["plans"].append(ways)
        found.append(entry)
    return found


def _plan(paradigm: Choice, head: Choice, backbone: Part, stages: Any) -> dict[str, Any]:
    """Visibility, what is predicted, and the stages of every way to act."""
    made: dict[str, Any] = {"modes": []}
    for imagined in (3, 1, 0):
        spec = at(backbone, head.part, paradigm.part, imagined, STATE)  # type: ignore[arg-type]
        if any(True for rule in (spec.paradigm.conflicts, level_conflicts) for _ in rule(spec)):
            continue
        sees = spec.paradigm.sees
        made.setdefault("sees", {role: sorted(seen) for role, seen in sees.items()})
        made["causal"] = []
        made["predicts"] = list(spec.paradigm.predicts)
        made["chunks"] = spec.paradigm.chunks_per_sample
        future = "without" if imagined == 0 else "with"
        for name, act_options in spec.paradigm.variants.items():
            mode = next((m for m in made["modes"] if m["name"] == name), None)
            if mode is None:
                mode = {"name": name}
                made["modes"].append(mode)
            if future not in mode:
                key = (
                    *(repr(spec.paradigm), name, future, spec.backbone.traits.text_follows),
                    *(head.part.is_regression, spec.predicts),  # type: ignore[attr-defined]
                )
                if key not in _STAGES:
                    _STAGES[key] = stages(spec, act_options)
                mode[future] = _STAGES[key]
    return made


def _text_rule(offered: Mapping[str, list[Choice]]) -> dict[str, Any]:
    """Whether each head reads the prompt with each backbone, and the cure where none does."""
    rows, hint = [], ""
    for backbone in offered["backbone"]:
        row = []
        for head in offered["action_head"]:
            spec = at(backbone.part, head.part, base().paradigm, 0, STATE)  # type: ignore[arg-type]
            row.append(spec.action_head.reads_text)
            if spec.backbone.traits.text == "none" and not row[-1] and not hint:
                found = [c for c in check(spec) if c.between == ("backbone", "action_head")]
                hint = next((c.hint for c in found if "instruction" in c.why), "")
        rows.append(row)
    return {"reads_text": rows, "text_hint": hint.partition("such as ")[2]}


def _cautions(offered: Mapping[str, list[Choice]]) -> dict[str, Any]:
    """Warnings of pairs: (backbone, VAE) and (backbone, text encoder), by their ids."""
    found: dict[str, Any] = {"vae": {}, "text_encoder": {}}
    for backbone in offered["backbone"]:
        spec = base(backbone.part)  # type: ignore[arg-type]
        for kind, rule in (("vae", strange_vae), ("text_encoder", strange_text_encoder)):
            for choice in offered[kind]:
                other = spec.model_copy(update={kind: choice.part})
                for caution in rule(other):
                    found[kind][f"{backbone.key} {choice.key}"] = caution.model_dump(mode="json")
    return found


def _usual(presets: list[Preset]) -> int:
    """The system that the page begins with: the first whose parts most systems share."""
    often = Counter(choice.key for preset in presets for choice in preset.parts.values())

    def shared(place: int) -> int:
        return sum(often[choice.key] for choice in presets[place].parts.values())

    return max(range(len(presets)), key=shared)


def _system(
    preset: Preset, offered: Mapping[str, list[Choice]], known: Mapping[str, Any]
) -> dict[str, Any]:
    keys = {kind: [choice.key for choice in offered[kind]] for kind in KINDS}
    spec = spec_of(preset.whole or preset.raw)
    raw = {key: value for key, value in preset.raw.items() if key not in KINDS}
    return {
        "name": preset.name,
        "about": preset.about,
        "parts": {kind: keys[kind].index(preset.parts[kind].key) for kind in KINDS},
        "raw": raw,
        "whole": None if preset.whole is None else _whole(preset, known),
        "warnings": [c.model_dump(mode="json") for c in warnings_of(spec.fitted())],
    }


def _whole(preset: Preset, known: Mapping[str, Any]) -> dict[str, Any]:
    """A system with the options that the page does not follow, and what Python finds of it."""
    assert preset.whole is not None
    raw = preset.whole
    found = known["systems"].get(whole_key(raw)) or whole(spec_of(raw))
    sees = spec_of(raw).fitted().paradigm.sees
    return {
        "options": list(preset.brought),
        "sees": {role: sorted(seen) for role, seen in sees.items()},
        "parts": {kind: part_table(raw[kind]) for kind in KINDS},
        "raw": {key: value for key, value in raw.items() if key not in KINDS},
        **found,
    }
