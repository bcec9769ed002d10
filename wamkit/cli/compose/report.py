"""What `wamkit compose` prints and writes: the spec, why it is so, or why there is none."""

from __future__ import annotations

import json as plain_json
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from ...config.composing import Composition, Remedy, compose_spec, find_remedy
from ...config.composing.document import spec_text
from ...config.composing.draft import Choice, Dropped
from ...config.hint_changes import as_overrides
from ...config.spec import PolicySpec, parse
from ...errors import WamkitError
from ...files.durable import as_not_written, make_folder, write_text
from .._folding import unbroken
from .._output import FOUND, conflict_lines, emit, error, note, say, show_table, table
from ..check import warn
from .asked import Asked
from .short_forms import FLAGS


def expect_free(asked: Asked) -> None:
    """Raise WamkitError if the file to write is no .toml, or exists and is not to be replaced."""
    if asked.out is None:
        return
    if asked.out.suffix != ".toml":
        raise WamkitError(f"{asked.out} is no .toml file", "a composed spec is TOML")
    if asked.out.exists() and not asked.force:
        raise WamkitError(f"{asked.out} exists", "choose another --out, or replace it with --force")


def finish(asked: Asked, *, json: bool = False) -> None:
    """Compose, explain and write what was asked for. Exit code 1 if it cannot be composed."""
    request = asked.request()
    made = compose_spec(request)
    if made.conflicts:
        _refuse(asked, made, find_remedy(request, made), json=json)
        raise typer.Exit(FOUND)
    text = spec_text(made.raw, (f"Composed by: {asked.command()}", *asked.names()))
    spec = parse(made.raw)
    if asked.out is not None:
        with as_not_written(asked.out):
            make_folder(asked.out.parent)
        write_text(asked.out, text)
    if json:
        emit({**_facts(made, spec), "toml": text, "out": asked.out and str(asked.out)})
    elif asked.out is None:
        _note_choices(made)
        say(text.rstrip("\n"), whole=True)
    else:
        _draw(made, spec)
        say(f"\nwrote {unbroken(asked.out)}")
        say(f"next: wamkit explain {unbroken(asked.out)}")


def token_line(spec: PolicySpec) -> str:
    """Tokens of each role in one pass."""
    counts = [f"{role} {count}" for role, count in spec.tokens().items() if count]
    return f"tokens: {', '.join(counts)}"


def as_text(value: Any) -> str:
    """A value on one line, as in the file."""
    return value if isinstance(value, str) else plain_json.dumps(value, ensure_ascii=False)


def _draw_reasons(title: str, choices: Sequence[Choice | Dropped]) -> None:
    if not choices:
        return
    say(title, "bold")
    rows = table("key", "value", "why", keep=("key",))
    for choice in choices:
        rows.add_row(choice.key, as_text(choice.value), choice.reason)
    show_table(rows)


def _draw(made: Composition, spec: PolicySpec) -> None:
    _draw_reasons("Chosen, with the reason:", made.choices)
    _draw_reasons("\nLeft out, with the reason:", made.dropped)
    say(f"\n{token_line(spec)}")
    if made.missing:
        say("It fits; this is missing on this machine (--tiny does without):", "bold")
        say(conflict_lines(made.missing))
    warn(made.cautions)


def _note_choices(made: Composition) -> None:
    """The same on stderr, for who reads the spec from stdout."""
    for choice in made.choices:
        note(f"{choice.key} = {as_text(choice.value)}: {choice.reason}")
    for one in made.dropped:
        note(f"left out {one.key} = {as_text(one.value)}: {one.reason}")
    for finding in (*made.missing, *made.cautions):
        note(str(finding))


def _facts(made: Composition, spec: PolicySpec | None) -> dict[str, Any]:
    return {
        "fits": not made.conflicts,
        "spec": made.raw,
        "choices": [vars(choice) for choice in made.choices],
        "dropped": [vars(one) for one in made.dropped],
        "tokens": {} if spec is None else spec.tokens(),
        "missing": [c.model_dump(mode="json") for c in made.missing],
        "warnings": [c.model_dump(mode="json") for c in made.cautions],
    }


def _refuse(asked: Asked, made: Composition, remedy: Remedy, *, json: bool) -> None:
    """Every conflict with its fixes, and a command line that was tried and fits."""
    fitting = asked.with_overrides(remedy.settings).command() if remedy.settings else None
    fixes = {c: [_option(asked, as_overrides(way)) for way in ways] for c, ways in remedy.ways}
    if json:
        conflicts = [
            {**c.model_dump(mode="json"), "fixes": [list(fix) for fix in fixes[c]]}
            for c in made.conflicts
        ]
        emit({**_facts(made, None), "conflicts": conflicts, "fitting_command": fitting})
        return
    count = f"{len(made.conflicts)} conflict{'s' * (len(made.conflicts) > 1)}"
    error(
        f"these parts do not fit each other: {count}",
        "this was tried, and fits: " + fitting if fitting else "",
        _conflict_lines(fixes),
    )


def _conflict_lines(fixes: Mapping[Any, list[tuple[str, ...]]]) -> str:
    """Numbered conflicts, each with its hint and the options that fix it."""
    lines = []
    for number, (conflict, ways) in enumerate(fixes.items(), 1):
        lead = f"  {number}. "
        lines.append(f"{lead}{' + '.join(conflict.between)}: {conflict.why}")
        lines.append(f"{' ' * len(lead)}hint: {conflict.hint}")
        if ways:
            options = ", or ".join(" ".join(way) for way in ways)
            lines.append(f"{' ' * len(lead)}fixed by: {options}")
    return "\n".join(lines)


def _option(asked: Asked, overrides: list[str]) -> tuple[str, ...]:
    """Overrides as the options of this command that set them."""
    import shlex

    paths = {text.partition("=")[0] for text in overrides}
    kept = {
        flag: word
        for flag, word in asked.parts.items()
        if ":" in word and f"{FLAGS[flag]}.variant" in paths
    }
    args = Asked(kept).with_overrides(overrides).args()[2:]
    return tuple(map(shlex.quote, args))
