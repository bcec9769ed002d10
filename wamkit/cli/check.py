"""`wamkit check`: every reason why a spec cannot be built, without torch and in a moment."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..config.check import check, warnings_of
from ..config.configs import unseen
from ..config.parts import KINDS, Caution, Conflict
from ..config.prefix import run_conflicts
from ..config.spec import PolicySpec, draft, parse, read
from ..errors import SpecError, WamkitError
from ._folding import unbroken
from ._options import Json, Overrides, Spec, Tiny
from ._output import FOUND, conflict_lines, emit, note, say
from ._sources import resolve_source

EXAMPLE = "wamkit check examples/toy.toml --set action_head.width=128"


def command(
    spec: Spec,
    overrides: Overrides = None,
    tiny: Tiny = False,
    delay: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Also check whether chunks may come so many actions late (d): "
            "d <= --execute-steps <= chunk - d.",
        ),
    ] = None,
    execute_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Actions executed of each chunk; half of them where --delay is given."
        ),
    ] = None,
    prefix_mode: Annotated[
        Literal["trained", "guided", "freeze"] | None,
        typer.Option(
            help="Also check whether a chunk can begin in this mode with what is to be executed."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Find every conflict in a spec before anything is built. Exit code 1 if there is one.

    With --delay, --execute-steps or --prefix-mode, also in how it is to be run, by the rules of
    `wamkit eval --real-time`.
    """
    spec = resolve_source(spec)
    found = conflicts_of(spec, overrides or (), tiny=tiny)
    if (delay, execute_steps, prefix_mode) != (None, None, None):
        made = _spec_of(spec, overrides or (), tiny=tiny)
        if made is not None:
            found = [*found, *run_conflicts(made, delay or 0, execute_steps, prefix_mode)]
    cautions = cautions_of(spec, overrides or (), tiny=tiny)
    composition = [c for c in found if not c.missing]
    missing = [c for c in found if c.missing]
    if json:
        emit(
            {
                "spec": str(spec),
                "fits": not found,
                "conflicts": [c.model_dump(mode="json") for c in composition],
                "missing": [c.model_dump(mode="json") for c in missing],
                "warnings": [c.model_dump(mode="json") for c in cautions],
            }
        )
    else:
        report(str(spec), composition, missing)
        warn(cautions)
    if found:
        raise typer.Exit(FOUND)


def conflicts_of(
    path: Path, overrides: list[str] | tuple[str, ...], *, tiny: bool
) -> list[Conflict]:
    """Every conflict of the spec at `path`, at toy size if `tiny`."""
    raw = read(path, overrides)
    if not tiny:
        return check(raw)
    _, mistakes = draft(raw)
    return mistakes or check(parse(raw, str(path)).tiny()[0])


def _spec_of(path: Path, overrides: Sequence[str], *, tiny: bool) -> PolicySpec | None:
    """The spec at `path`, at toy size if `tiny`; None if it has mistakes."""
    raw = read(path, overrides)
    if draft(raw)[1]:
        return None
    found = parse(raw, str(path))
    return found.tiny()[0] if tiny else found


def specs_of(
    paths: Sequence[Path], overrides: Sequence[str], needed: Collection[str] = ()
) -> list[PolicySpec]:
    """The specs at `paths`, to be counted without their files. All are read before any is used.

    `needed` are the kinds of part whose modules must be here. Raises WamkitError with all that is
    wrong, in whichever file.
    """
    specs: list[PolicySpec] = []
    faults: list[Conflict] = []
    for path in paths:
        found: list[Conflict] = []
        try:
            raw = read(path, overrides)
            found = [c for c in check(raw) if not c.missing or c.between[0] in needed]
            if not found:
                specs.append(parse(raw, str(path)))
                for kind in KINDS:
                    for caution in unseen(getattr(specs[-1], kind)):
                        note(f"{path}: {caution}")
        except WamkitError as error:
            if len(paths) == 1:
                raise
            faults.append(Conflict(between=(str(path),), why=error.what, hint=error.hint))
        if found and len(paths) == 1:
            raise SpecError(found, str(path))
        for conflict in found:
            between = (f"{path}: {conflict.between[0]}", *conflict.between[1:])
            faults.append(conflict.model_copy(update={"between": between}))
    if faults:
        raise SpecError(faults, f"{len(paths) - len(specs)} of {len(paths)} specs")
    return specs


def cautions_of(path: Path, overrides: list[str] | tuple[str, ...], *, tiny: bool) -> list[Caution]:
    """Every warning about the spec at `path`, at toy size if `tiny`."""
    raw = read(path, overrides)
    if not tiny:
        return warnings_of(raw)
    return [] if draft(raw)[1] else warnings_of(parse(raw, str(path)).tiny()[0])


def warn(cautions: Sequence[Caution]) -> None:
    """Print warnings about parts that fit but may not work as expected."""
    if cautions:
        say("Warning:" if len(cautions) == 1 else "Warnings:", "bold")
        say(conflict_lines(cautions))


def report(source: str, composition: list[Conflict], missing: list[Conflict]) -> None:
    """Print conflicts, those of the composition before those of this machine."""
    source = unbroken(source)
    if not composition and not missing:
        say(f"{source} fits.")
    if composition:
        plural = "s" if len(composition) > 1 else ""
        say(f"{source} has {len(composition)} conflict{plural}:", "bold")
        say(conflict_lines(composition))
    if missing:
        lead = "Also missing" if composition else f"{source} fits, but this is missing"
        say(f"{lead} on this machine:", "bold")
        say(conflict_lines(missing))
