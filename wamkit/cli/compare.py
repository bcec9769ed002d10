"""`wamkit compare`: several specs in one table: sizes, work per chunk, latency at toy size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.spec import PolicySpec
from ..files import plots
from ._completion import complete_spec
from ._folding import brief
from ._options import Device, Json, Overrides
from ._output import FOUND, INTERRUPTED, emit, note, say, show_table, spinner, table
from ._sources import resolve_source
from .check import specs_of

EXAMPLE = "wamkit compare examples/fastwam.toml examples/fastwam_joint.toml --plot compare.svg"

UNKNOWN = "?"
"""Placeholder for a value that could not be counted; a note has the reason."""


@dataclass(frozen=True)
class Row:
    """One spec, run one way."""

    name: str
    parameters: dict[str, int | None]  # kind -> count, of what runs for every chunk
    tokens: dict[str, int]
    passes: int | None = None  # None, as all that follow, if it could not be counted
    operations: int | None = None
    bytes_moved: int | None = None  # read from memory and written to it
    milliseconds: float | None = None  # of one chunk at toy size, median
    left_out: tuple[str, ...] = ()  # parts left out of these values, and why

    @property
    def total(self) -> int:
        """All parameters that run for every chunk."""
        return sum(count or 0 for count in self.parameters.values())


def command(
    specs: Annotated[
        list[Path],
        typer.Argument(metavar="SPEC...", help="Specs to compare.", autocompletion=complete_spec),
    ],
    plot: Annotated[Path | None, typer.Option(help="Figure to write, .svg or .png.")] = None,
    measure: Annotated[
        bool, typer.Option(help="Also time a chunk at toy size on this machine.")
    ] = True,
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Compare specs: parameters, tokens, passes, operations and bytes of a chunk, and its latency.

    All specs are checked before any is counted. A row notes values that could not be counted
    because its module is not installed; the exit code is then 1. Ctrl-C prints the rows that are
    finished.

    Sizes and work are those of the specs themselves, counted without a weight; the latency is that
    of the same compositions at toy size, random weights, on this machine. Text encoders are left
    out: they run once for an instruction.
    """
    if plot is not None:
        plots.expect_plots(plot)
    chosen, rows = specs_of(specs, overrides or []), list[Row]()
    for path in specs:
        resolve_source(path)  # notes which policy of a run it is
    if measure:
        from ..policy.devices import expect_device

        expect_device(device)
    names, finished = unique_names(specs), True
    try:
        for name, spec in zip(names, chosen, strict=True):
            with spinner(f"counting {name}"):
                rows.extend(compare_specs(spec, name, device if measure else None))
    except KeyboardInterrupt:  # print the rows counted so far
        if not rows:
            raise
        finished = False
    if plot is not None:
        with plots.style():
            plots.write(plot, plots.bars(_series(rows)))
    if json:
        emit({"policies": [{**vars(row), "total": row.total} for row in rows]})
    else:
        _draw(rows)
    for row in rows:
        for part in row.left_out:
            note(f"{row.name}: {part}")
    if measure and not json:
        note(f"ms: one chunk at toy size on {device}, median of 5; see `wamkit bench` for more")
    if plot is not None and not json:
        say(f"wrote {plot}", whole=True)
    if not finished:
        note(f"interrupted: these rows were finished, of {len(names)} specs")
        raise typer.Exit(INTERRUPTED)
    if any(row.left_out for row in rows):
        raise typer.Exit(FOUND)


def unique_names(paths: Sequence[Path]) -> list[str]:
    """A unique name for each path: as much of its end as needed, or else a number."""
    parts = [path.absolute().parts for path in paths]

    def name(i: int, more: int) -> str:
        if more:
            return "/".join(parts[i][-more:])
        return parts[i][-1] if paths[i].is_dir() else paths[i].stem

    many = [0] * len(paths)
    while same := {
        i
        for i, j in permutations(range(len(paths)), 2)
        if parts[i] != parts[j] and name(i, many[i]) == name(j, many[j])
    }:
        many = [more + (i in same) for i, more in enumerate(many)]
    names = [name(i, more) for i, more in enumerate(many)]
    return [
        f"{label} ({before + 1})" if (before := names[:i].count(label)) else label
        for i, label in enumerate(names)
    ]


def compare_specs(spec: PolicySpec, name: str, device: str | None) -> Iterator[Row]:
    """One row for each way that the spec's paradigm can go; timed on `device` if there is one.

    Parts that cannot be built on this machine are left out of a row, with a note.
    """
    from ._params import parameters

    left_out, sizes = [], dict[str, int | None]()
    for kind in ("backbone", "vae", "action_head"):
        count = parameters(getattr(spec, kind), spec.sizes)
        sizes[kind] = count if isinstance(count, int) else None
        if isinstance(count, str):
            left_out.append(f"{kind}: {count}")
    tokens = {role: count for role, count in spec.tokens().items() if count}
    for mode, act_options in spec.paradigm.variants.items():
        row = Row(f"{name}, {mode}" if mode else name, sizes, tokens, left_out=tuple(left_out))
        yield _count_row(row, spec, act_options, device)


def _count_row(
    row: Row, spec: PolicySpec, act_options: Mapping[str, Any], device: str | None
) -> Row:
    """Count and time one row; a failure does not affect other rows."""
    from ..policy.cost import cost

    try:
        spent = cost(spec, **act_options)
        missing = tuple(dict.fromkeys((*row.left_out, *spent.left_out)))
        row = replace(
            row,
            passes=spent.passes,
            operations=spent.operations,
            bytes_moved=spent.bytes,
            left_out=missing,
        )
    except Exception as problem:  # a part may raise anything; the row reports it
        why = f"work not counted: {type(problem).__name__}: {problem}"
        return replace(row, left_out=(*row.left_out, why))
    if device is None:
        return row
    try:
        return replace(row, milliseconds=milliseconds(spec, device, act_options))
    except Exception as problem:
        why = f"not timed: {type(problem).__name__}: {problem}"
        return replace(row, left_out=(*row.left_out, why))


def milliseconds(spec: PolicySpec, device: str, act_options: Mapping[str, Any]) -> float:
    """Median of five chunks of the same composition at toy size, after one that is not counted."""
    from statistics import median
    from time import perf_counter

    from ..policy.observation import random_observation
    from ..policy.policy import Policy

    small = spec.tiny()[0]
    policy = Policy.from_spec(small, device=device)
    seen, times = random_observation(small, batch=1, frames=small.video.num_observed), []
    for _ in range(6):
        begin = perf_counter()
        policy.act(seen, seed=0, **act_options)
        times.append(1000 * (perf_counter() - begin))
    return median(times[1:])


def _draw(rows: list[Row]) -> None:
    heads = ("backbone", "VAE", "head", "tokens", "passes", "TFLOP", "GB moved", "ms")
    made = table("spec", *heads, right=heads, keep=("spec",))
    for row in rows:
        sizes = [_count(row.parameters[kind]) for kind in ("backbone", "vae", "action_head")]
        video = row.tokens.get("context", 0) + row.tokens.get("target", 0)
        numbers = sum(row.tokens.values()) - video - row.tokens.get("text", 0)
        made.add_row(
            row.name,
            *sizes,
            f"{video} + {numbers}",
            UNKNOWN if row.passes is None else str(row.passes),
            UNKNOWN if row.operations is None else brief(row.operations / 1e12),
            UNKNOWN if row.bytes_moved is None else brief(row.bytes_moved / 1e9),
            "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        )
    show_table(made)
    say("tokens: frames + vectors; other columns: one chunk, VAE included")
    say("GB moved: memory traffic, not memory use")


def _count(parameters: int | None) -> str:
    if parameters is None:
        return UNKNOWN
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{brief(parameters / size)}{letter}"
    return str(parameters)


def _series(rows: list[Row]) -> dict[str, dict[str, float]]:
    series = {"parameters, billions": {row.name: row.total / 1e9 for row in rows}}
    for label, size, values in (
        ("TFLOP a chunk", 1e12, {row.name: row.operations for row in rows}),
        ("GB moved a chunk", 1e9, {row.name: row.bytes_moved for row in rows}),
        ("ms a chunk at toy size", 1, {row.name: row.milliseconds for row in rows}),
    ):
        known = {name: value / size for name, value in values.items() if value is not None}
        if known:
            series[label] = known
    return series
