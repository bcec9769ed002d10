"""`wamkit explain`: draw a spec: parts, sizes, attention mask, passes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from ..config.check import warnings_of
from ..config.parts import KINDS
from ..config.programs import program_of
from ..config.spec import PolicySpec, parse, read
from ..config.visibility import Visibility, cacheable_subset, followed
from ._options import Json, Overrides, Spec, Tiny
from ._output import FOUND, emit, mark, note, say, show_table, table
from ._params import parameters
from ._sources import resolve_source
from .check import conflicts_of, report, warn

EXAMPLE = "wamkit explain examples/toy.toml"


def command(
    spec: Spec, overrides: Overrides = None, tiny: Tiny = False, json: Json = False
) -> None:
    """Draw a spec: its parts, its attention mask by role, and its passes.

    No weights are loaded. Exit code 1 if the parts do not fit each other.
    """
    chosen, spec = overrides or [], resolve_source(spec)
    found = conflicts_of(spec, chosen, tiny=tiny)
    broken = [c for c in found if not c.missing]
    if broken:
        if json:
            emit({"spec": str(spec), "conflicts": [c.model_dump(mode="json") for c in broken]})
        else:
            report(str(spec), broken, [])
        raise typer.Exit(FOUND)
    for conflict in found:
        note(f"{conflict.between[0]}: {conflict.why} (hint: {conflict.hint})")
    policy = parse(read(spec, chosen), str(spec))
    changes: dict[str, str] = {}
    if tiny:
        policy, changes = policy.tiny()
    facts, cautions = explain_spec(policy), warnings_of(policy)
    if json:
        warned = [c.model_dump(mode="json") for c in cautions]
        emit({"spec": str(spec), "tiny": changes, **facts, "warnings": warned})
        return
    for kind, reason in changes.items():
        note(f"tiny {kind}: {reason}")
    _draw(policy, facts)
    warn(cautions)


def explain_spec(spec: PolicySpec) -> dict[str, Any]:
    """Everything `explain` draws, as plain data."""
    tokens = spec.tokens()
    streamed = spec.backbone.traits.text == "stream"
    observed, imagined = spec.latent_frames
    sees = {role: sorted(seen) for role, seen in spec.paradigm.sees.items()}
    present = [r for r in _roles(sees) if _count(r, tokens) and (streamed or r != "text")]
    program = program_of(spec)
    depends = _without_text(sees, streamed)
    if spec.backbone.traits.text_follows:
        depends = followed(depends, {role for stage in program for role in stage.roles})
    known = {r for r in present if r in ("text", "context", "state") or r.endswith("'")}
    return {
        "parts": [_part(spec, kind) for kind in KINDS],
        "canvas": list(spec.cameras.canvas),
        "layout": spec.cameras.layout,
        "cameras": {view.name: list(view.size) for view in spec.cameras.views},
        "images": {
            "observed": spec.video.num_observed,
            "imagined": spec.video.num_frames - spec.video.num_observed,
        },
        "latent": {
            "channels": spec.vae.channels,
            "size": list(spec.latent_size),
            "observed": observed,
            "imagined": imagined,
        },
        "actions": {
            "chunk_size": spec.actions.chunk_size,
            "size": spec.actions.size,
            "control_hz": spec.actions.control_hz,
        },
        "state": spec.state.size,
        "tokens": {role: count for role, count in tokens.items() if count},
        "text": spec.backbone.traits.text,
        "text_level": spec.backbone.traits.text_level if streamed else "clean",
        "roles": {role: _count(role, tokens) for role in present},
        "sees": {row: [col for col in present if col in sees.get(row, ())] for row in present},
        "cacheable": sorted(cacheable_subset(known, depends, present)),
        "program": [
            {
                "does": stage.does,
                "roles": list(stage.roles),
                "passes": stage.passes,
                "tokens": sum(_count(r, tokens) for r in stage.roles if streamed or r != "text"),
            }
            for stage in program
        ],
    }


def _part(spec: PolicySpec, kind: str) -> dict[str, Any]:
    part = getattr(spec, kind)
    return {
        "kind": kind,
        "name": part.name,
        "variant": getattr(part, "variant", None),
        "weights": getattr(part, "weights", None),
        "parameters": parameters(part, spec.sizes),
    }


def _roles(sees: Mapping[str, list[str]]) -> list[str]:
    """Roles in the order of `ModelInputs`, then those that only this paradigm knows."""
    usual = ["text", "context", "target", "seen", "state", "action", "did", "next_state", "value"]
    named = list(dict.fromkeys([*sees, *(role for seen in sees.values() for role in seen)]))
    places = {role: i for i, role in enumerate(usual)}
    return sorted(named, key=lambda r: places.get(r.rstrip("'").partition(".")[0], len(usual)))


def _count(role: str, tokens: Mapping[str, int]) -> int:
    """Tokens of a role; a clean copy (`target'`) has the tokens of the original."""
    return tokens.get(role.rstrip("'"), 0)


def _without_text(sees: Mapping[str, list[str]], streamed: bool) -> Visibility:
    """The table as blocks execute it: only some backbones have the text in the stream."""
    if streamed:
        return sees
    return {row: [r for r in seen if r != "text"] for row, seen in sees.items() if row != "text"}


def _draw(spec: PolicySpec, facts: Mapping[str, Any]) -> None:
    _draw_parts(facts)
    _draw_sizes(facts)
    say("\nWho sees whom: a row attends to the columns that are filled, in tokens\n", "bold")
    _draw_grid(facts)
    if facts["text"] != "stream":
        text_tokens = facts["tokens"].get("text", 0)
        where = "the blocks" if facts["text"] == "cross" else "the action head alone"
        say(f"text: {text_tokens} tokens, read inside {where} by cross-attention")
    level = f"noise level of the text: {facts['text_level']}"
    if facts["text_level"] != "clean":
        level += "; text has the noise level of the target frames, and is recomputed with them"
        level += "; 0 in passes without any" if facts["text_level"] != "target" else ""
    say(level)
    if spec.cameras.layout == "clip_per_view":
        stride, depth = spec.backbone.traits.cross_view_stride, spec.backbone.traits.depth
        layers = ", ".join(map(str, range(0, depth, stride)))
        say(f"views see each other in layers {layers}; elsewhere each only its own frames")
    kept = ", ".join(facts["cacheable"])
    say(f"computed once and kept: {kept}" if kept else "nothing can be computed once and kept")
    say("\nWhat one call of act runs\n", "bold")
    made = table("passes", "tokens a pass", "roles", "what for", right=("passes", "tokens a pass"))
    for stage in facts["program"]:
        made.add_row(
            str(stage["passes"]), str(stage["tokens"]), ", ".join(stage["roles"]), stage["does"]
        )
    show_table(made)
    say(
        f"schedules: {spec.schedules.action.steps} steps for actions (shift "
        f"{spec.schedules.action.shift}), {spec.schedules.video.steps} for images (shift "
        f"{spec.schedules.video.shift})"
    )


def _draw_parts(facts: Mapping[str, Any]) -> None:
    heads = ("part", "name", "weights", "parameters")
    made = table(*heads, right=("parameters",), keep=("part", "name", "weights"))
    total, besides = 0, []
    for part in facts["parts"]:
        label = " ".join(filter(None, (part["name"], part["variant"])))
        count = part["parameters"]
        total += count if isinstance(count, int) else 0
        count_text = f"{count:,}" if isinstance(count, int) else "not counted"
        if not isinstance(count, int):
            besides.append(f"{part['kind']}: {count}")
        weights_source = part["weights"] or ("random" if isinstance(count, int) and count else "-")
        made.add_row(part["kind"], label, weights_source, count_text)
    made.add_row("together", "", "", f"{total:,}", style="bold")
    show_table(made)
    for line in besides:
        say(line)


def _draw_sizes(facts: Mapping[str, Any]) -> None:
    latent, actions, images = (
        facts["latent"],
        facts["actions"],
        facts["images"],
    )
    height, width = latent["size"]
    views = ", ".join(f"{name} {h}x{w}" for name, (h, w) in facts["cameras"].items())
    say("\ncanvas: {}x{} pixels, {} ({})".format(*facts["canvas"], facts["layout"], views))
    say(
        f"latents: {latent['channels']} channels of {height}x{width}; "
        f"{latent['observed']} observed and {latent['imagined']} imagined frames, of "
        f"{images['observed']} and {images['imagined']} images"
    )
    say(
        f"actions: {actions['chunk_size']} x {actions['size']} at {actions['control_hz']:g} Hz, "
        f"{actions['chunk_size'] / actions['control_hz']:g} s; state: {facts['state']} values"
    )


def _draw_grid(facts: Mapping[str, Any]) -> None:
    roles: dict[str, int] = facts["roles"]
    heads = ("", "tokens", *roles, "sees")
    made = table(*heads, center=roles, right=("tokens", "sees"), keep=("",), keys=2)
    for row, count in roles.items():
        seen = facts["sees"][row]
        marks = [mark(column in seen) for column in roles]
        made.add_row(row, str(count), *marks, str(sum(roles[column] for column in seen)))
    show_table(made)
