"""`wamkit sweep`: every combination of values of some keys, checked, run and compared."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ...files.durable import as_not_written, make_folder
from ...files.locking import lock
from .._complete_keys import complete_axis
from .._options import Json, Overrides, Source
from .._output import FOUND, INTERRUPTED, emit, note, say
from .._sources import resolve_source
from .cells import (
    cells_of,
    counts_line,
    expect_known_values,
    refuse_missing,
    refuse_untrained,
    report_refused,
)
from .execution import result_of, run_cells
from .grid import axes_of, points_of
from .options import expect_options
from .records import write_spec
from .results import as_data, expect_all_kept, write_results

EXAMPLE = (
    "wamkit sweep examples/toy.toml --vary schedules.action.steps=1,2,5,10 --run bench "
    "--out out/steps -- --iters 5"
)


def command(
    source: Source,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE,...",
            help="A key and its values, such as schedules.action.steps=1,5 or paradigm=joint,idm; "
            "train.KEY is a training setting; may be repeated.",
            autocompletion=complete_axis,
        ),
    ],
    zipped: Annotated[
        bool, typer.Option("--zip", help="First value with first, second with second, ...")
    ] = False,
    verb: Annotated[
        Literal["check", "train", "bench", "eval"],
        typer.Option("--run", help="What is done with each: check, train, bench or eval."),
    ] = "check",
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of cells and results; else out/sweep-SPEC."),
    ] = None,
    overrides: Overrides = None,
    args: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- OPTIONS", help="Options of what is run, for every cell."),
    ] = None,
    json: Json = False,
) -> None:
    """Vary a spec: check every combination of some values, train or measure each, compare all.

    Combinations that do not fit are listed first, with reasons and fixes; the others run, each in a
    folder of its own with its spec.toml. The same command goes on where it was interrupted and
    keeps what is finished, and a wider grid adds to it. At the end DIR holds a table, a figure and
    the results as JSON, such as train.md, train.svg and train.json.

    --run eval plays what --run train made in the same DIR, or varies a saved policy.
    """
    args = args or []
    axes = axes_of(vary)
    points = points_of(axes, zipped=zipped)
    expect_options(verb, source, axes, args)
    source = resolve_source(source)
    out = out or Path("out", f"sweep-{source.stem}")
    cells = cells_of(source, points, overrides or [], tiny="--tiny" in args)
    expect_known_values(axes, cells)
    if verb != "check" and "--tiny" not in args:
        cells = refuse_missing(cells)
    if verb == "eval":
        cells = refuse_untrained(cells, source, out)
    fitting = [cell for cell in cells if not cell.refused]
    if not json:
        say(counts_line(len(cells), len(fitting)))
        report_refused(cells)
    with as_not_written(out):
        make_folder(out)
    with lock(out, "choose another --out"):
        expect_all_kept(out, verb, cells)
        for cell in fitting:
            write_spec(out / cell.point.folder, cell.spec or {})
        if verb == "check":
            results, stopped = [result_of(verb, cell, None, out) for cell in cells], False
        else:
            results, stopped = run_cells(verb, source, cells, out, overrides or [], args)
        data = as_data(source, verb, axes, zipped, results)
        files = write_results(out, verb, axes, results, data, print_table=not json)
    if json:
        emit(data)
    else:
        say(f"wrote {', '.join(map(str, files))}", whole=True)
    if stopped:
        note("interrupted: the same command goes on")
        raise typer.Exit(INTERRUPTED)
    if not fitting or any(result.state == "failed" for result in results):
        raise typer.Exit(FOUND)
