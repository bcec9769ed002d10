"""`wamkit show`: what one part is, the keys of its table, and the sizes of its variants."""

from __future__ import annotations

import re
from inspect import cleandoc
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from ..config.describe import meanings
from ..config.parts import (
    ActionHeadConfig,
    BackboneConfig,
    EnvironmentConfig,
    ParadigmConfig,
    Part,
    TextEncoderConfig,
    Traits,
    VAEConfig,
)
from ..config.registry import registry
from ..config.spec import override, parse_part
from ._complete_keys import complete_part_setting
from ._folding import fold_items, folds, width
from ._options import Json, KindOrSection, Name
from ._output import emit, say, show_table, table
from ._show_spec import is_spec_path, show_spec
from ._types import cell_text, limits_of, type_name
from .listing import describe_part

EXAMPLE = "wamkit show backbone wan --params"


def command(
    kind: KindOrSection = None,
    name: Name = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one key; may be repeated.",
            autocompletion=complete_part_setting,
        ),
    ] = None,
    params: Annotated[
        bool, typer.Option("--params", help="Count parameters, without allocating any.")
    ] = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print all sections as a page (docs/spec.md).")
    ] = False,
    defaults: Annotated[
        bool, typer.Option(help="Of a spec: write out the values that it leaves open.")
    ] = True,
    json: Json = False,
) -> None:
    """Show what a part is, its keys and sizes; every key of a section; or a whole spec, resolved.

    Of a spec its base is merged in and every default written out: the policy as it will be built,
    in TOML that can be used as a spec itself.

    Sections are actions, state, cameras, video and schedules, spec (what stands above them) and
    train (the training settings).
    """
    if kind is not None and name is None and is_spec_path(kind):
        show_spec(Path(kind), overrides or (), defaults=defaults, json=json)
        return
    if as_markdown or kind is None or name is None:
        from ._sections import show_sections

        show_sections(kind, overrides, params, as_markdown, json)
        return
    cls = registry().get(kind, name)
    raw = override({"name": name}, overrides or ())
    part: Any = parse_part(kind, raw)
    keys = [_key(label, field, part) for label, field in cls.model_fields.items()]
    rows = [_row(each, params) for each in _variants(cls, raw, part)]
    if json:
        about: dict[str, Any] = {"doc": cleandoc(cls.__doc__ or ""), "source": cls.source}
        if isinstance(part, EnvironmentConfig):
            about["tasks"] = dict(part.subjects)
            about["suites"] = {
                suite: {"tasks": list(tasks), "settings": dict(part.suite_settings.get(suite, {}))}
                for suite, tasks in part.suites.items()
            }
        emit({**describe_part(cls), **about, "keys": keys, "variants": rows})
        return
    say(f"{kind} {name}", "bold")
    say(_paragraphs(cleandoc(cls.__doc__ or "")))
    say(f"\nsource: {cls.source or 'wamkit'}")
    about = describe_part(cls)
    say(f"license: {about['license']}")
    say(f"from: {about['from']}")
    if about["needs"]:
        lacking = ", ".join(about["missing"])
        say(f"needs: {', '.join(about['needs'])}" + (f" (missing: {lacking})" if lacking else ""))
    say()
    tables = any(isinstance(key["value"], dict) for key in keys)  # which fold at their spaces
    names = ("key",) if tables else ("key", "value")
    made = table("key", "type", "value", "meaning", keep=names)
    for key in keys:
        made.add_row(key["key"], key["type"], cell_text(key["value"]), key["meaning"])
    show_table(made)
    _show_facts(rows)
    if isinstance(part, EnvironmentConfig) and part.subjects:
        say(
            f"\n{len(part.subjects)} tasks, as in `--env {name}:{next(iter(part.subjects))}`",
            "bold",
        )
        made = table("task", "instruction", keep=("task",))
        for task, instruction in part.subjects.items():
            made.add_row(task, instruction)
        show_table(made)
    if isinstance(part, EnvironmentConfig) and part.suites:
        _show_suites(part)


def _show_suites(part: EnvironmentConfig) -> None:
    """The benchmark suites of an environment, with the settings of their protocols."""
    say(f"\nsuites, as in `--suite {next(iter(part.suites))}`", "bold")
    made = table("suite", "tasks", "protocol", right=("tasks",), keep=("suite",))
    for suite, tasks in part.suites.items():
        settings = part.suite_settings.get(suite, {})
        protocol = ", ".join(f"{key} = {cell_text(value)}" for key, value in settings.items())
        made.add_row(suite, str(len(tasks)), protocol or "the defaults")
    show_table(made)


def _variants(cls: type[Part], raw: dict[str, Any], part: Part) -> list[Part]:
    """The part in each of its published variants, or just as it is if it has none."""
    field = cls.model_fields.get("variant")
    if field is None or get_origin(field.annotation) is not Literal or "variant" in raw:
        return [part]
    return [parse_part(part.kind, {**raw, "variant": v}) for v in get_args(field.annotation)]


def _row(part: Part, params: bool) -> dict[str, Any]:
    row = {"variant": getattr(part, "variant", "-"), **facts(part)}
    if params:
        from ._params import parameters

        row["parameters"] = parameters(part)
    return row


def facts(part: Part) -> dict[str, Any]:
    """What a part states of itself before it is built."""
    if isinstance(part, BackboneConfig):
        traits = part.traits.model_dump(mode="json")
        return {**traits, "latent_channels": traits["latent_channels"] or None}  # left open
    if isinstance(part, VAEConfig):
        return {"channels": part.channels, "stride": list(part.stride)}
    if isinstance(part, TextEncoderConfig):
        return {"width": part.width or None, "max_tokens": part.max_tokens}
    if isinstance(part, ActionHeadConfig):
        return {"exposes_tokens": part.exposes_tokens}
    if isinstance(part, ParadigmConfig):
        return {"sees": {role: sorted(seen) for role, seen in part.sees.items()}}
    return {}


def _paragraphs(text: str) -> str:
    """`text` with a line for each paragraph, where it is folded anew; lists stay as they are."""
    if not folds():
        return text
    blocks = re.split(r"\n\s*\n", text)
    joined = [b if re.search(r"\n[\s*-]", b) else " ".join(b.split()) for b in blocks]
    return "\n\n".join(joined)


def _show_facts(rows: list[dict[str, Any]]) -> None:
    """A table with a row for each variant; columns with usual values only share one line."""
    usual = {k: f.default for k, f in Traits.model_fields.items() if not f.is_required()}
    usual["patch_size"] = None  # always of interest
    columns = [
        label
        for label in dict.fromkeys(k for row in rows for k in row)
        if any(cell_text(row[label]) != cell_text(usual.get(label, ...)) for row in rows)
    ]
    say()
    if rows[0]["variant"] == "-":  # there are no variants
        _show_sees(rows[0].pop("sees", {}))
        plain, lead, columns = list(rows[0])[1:], "facts", []
    else:
        plain, lead = [k for k in rows[0] if k not in columns], "as usual"
    if shared := [f"{key} {cell_text(rows[0][key])}" for key in plain]:
        say(
            fold_items([f"{lead}: {shared[0]}", *shared[1:]], width(), "  ", ";"),
            whole=True,
        )
    if not columns:
        return
    say()
    numbers = [c for c in columns if all(isinstance(row[c], int) for row in rows)]
    made = table(*columns, right=numbers, keep=columns)
    for row in rows:
        made.add_row(*(cell_text(row[label]) for label in columns))
    show_table(made)


def _show_sees(sees: dict[str, list[str]]) -> None:
    """Who sees whom, of a paradigm."""
    if sees:
        made = table("role", "sees", keep=("role",))
        for role, seen in sees.items():
            made.add_row(role, ", ".join(seen) or "nothing")
        show_table(made)


def _key(label: str, field: FieldInfo, part: Part) -> dict[str, Any]:
    return {
        "key": label,
        "type": limits_of(type_name(field.annotation), field.metadata),
        "value": part.model_dump(mode="json")[label],
        "meaning": meanings(type(part)).get(label, ""),
    }
