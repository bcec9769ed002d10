"""What a shell completes behind `--set` and `--train`: keys, and values that can be listed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import typer

from ..config.describe import models_in
from ..config.mistakes import allowed_values
from ..config.part_rules import BASES
from ..config.parts import KINDS
from ..config.registry import registry
from ..config.spec import SCALARS, SECTIONS, PolicySpec, read
from ..errors import WamkitError
from ._completion import filter_prefix


def complete_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=VALUE` of a spec: the keys of its parts, and values where they can be listed."""
    return filter_prefix(_settings(_tables(ctx), incomplete), incomplete)


def complete_part_setting(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=VALUE` of the part that `show` is about."""
    given = [ctx.params.get("kind"), ctx.params.get("name"), *ctx.args]
    kind, name, *_ = [*(str(word) for word in given if word), "", ""]
    try:
        cls = registry().get(kind, name)
    except WamkitError:
        return []
    return filter_prefix(_keys(cls, "", incomplete), incomplete)


def complete_axis(ctx: typer.Context, incomplete: str) -> list[str]:
    """`KEY=VALUE,VALUE,...` of a spec, or of the training settings behind `train.`."""
    key, equals, values = incomplete.partition("=")
    given = values.rpartition(",")[0] + "," if "," in values else ""
    typed = f"{key}{equals}{values.removeprefix(given)}"
    if key.startswith("train."):
        found = [f"train.{word}" for word in complete_training(typed.removeprefix("train."))]
    else:
        names = (f"{kind}={name}" for kind in KINDS for name in registry().names(kind))
        found = filter_prefix([*names, "train.", *_settings(_tables(ctx), typed)], typed)
    lead = f"{key}{equals}"
    used = given.split(",")
    return [
        f"{lead}{given}{word.removeprefix(lead)}" if given else word
        for word in found
        if not given or word.removeprefix(lead) not in used
    ]


def complete_training(incomplete: str) -> list[str]:
    """`KEY=VALUE` of the settings of training."""
    from ..train.config import TrainConfig

    return filter_prefix(_keys(TrainConfig, "", incomplete), incomplete)


def _tables(ctx: typer.Context) -> dict[str, str]:
    """kind -> the name of the part that the command line is about, as far as it says one."""
    named: dict[str, str] = {}
    given = [ctx.params.get(key) for key in ("spec", "source", "like")]
    given += ctx.params.get("specs") or ()
    for path in (*given, *ctx.args):  # an argument before an incomplete option is among the rest
        if path:
            try:
                raw = read(path)
            except (WamkitError, OSError):
                continue
            tables = {kind: raw.get(kind) for kind in KINDS}
            named |= {k: str(t["name"]) for k, t in tables.items() if t and "name" in t}
    flags = {"text": "text_encoder", "head": "action_head"}
    for key, word in ctx.params.items():
        if flags.get(key, key) in KINDS and isinstance(word, str):
            named[flags.get(key, key)] = word.partition(":")[0]
    return named


def _settings(named: dict[str, str], incomplete: str) -> Iterator[str]:
    for kind in KINDS:
        for name in registry().names(kind):
            yield f"{kind}.name={name}"
        cls = registry().parts[kind].get(named.get(kind, ""), BASES[kind])
        yield from _keys(cls, f"{kind}.", incomplete)
    for section, form in SECTIONS.items():
        yield from _keys(form, f"{section}.", incomplete)
    for key in SCALARS:
        yield from _values(PolicySpec.model_fields[key], key, incomplete)


def _keys(cls: Any, lead: str, incomplete: str) -> Iterator[str]:
    """Paths of all keys of a form and of the forms in it."""
    for key, field in cls.model_fields.items():
        path = f"{lead}{key}"
        if key == "name" and lead.count(".") < 2:
            continue  # names of parts are listed by `_settings`
        inner = [form for form in models_in(field.annotation) if form not in BASES.values()]
        if not inner:
            yield from _values(field, path, incomplete)
        for form in inner:
            yield from _keys(
                form, f"{path}.{'0.' * ('tuple' in str(field.annotation))}", incomplete
            )


def _values(field: Any, path: str, incomplete: str) -> Iterator[str]:
    """`path=`, or with each value where they can be listed and the path is typed whole."""
    if not incomplete.startswith(f"{path}="):
        yield f"{path}="
        return
    known = allowed_values(field.annotation)
    known += ["true", "false"] * (field.annotation is bool)
    yield from (f"{path}={value}" for value in known)
