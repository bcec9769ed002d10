"""What the cells came to: values for tables and figures, and a file for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...config.runs import LOG
from ...errors import WamkitError
from ...files import strict_json
from ...files.durable import write_text
from ...files.printable import escape_markdown
from ...files.shards import few
from .._folding import brief
from .._output import note, show_table, table
from .cells import Cell
from .grid import Axis, short_names
from .records import SCHEMA
from .runs import RUN


@dataclass(frozen=True)
class Metric:
    """A value of a cell: its name in JSON, and its heading in tables, with the unit."""

    name: str
    heading: str

    def format(self, value: float) -> str:
        """A value of it in a few digits."""
        return f"{value:.0%}" if self.name == "success_rate" else brief(value)


METRICS: dict[str, tuple[Metric, ...]] = {
    "check": (Metric("tokens", "tokens"),),
    "train": (
        Metric("validation_loss", "held-out loss"),
        Metric("loss", "last loss"),
        Metric("samples_per_second", "samples/s"),
    ),
    "bench": (
        Metric("chunk_ms", "chunk, ms"),
        Metric("max_control_hz", "max control Hz"),
        Metric("peak_gb", "peak GB"),
    ),
    "eval": (
        Metric("success_rate", "success rate"),
        Metric("return", "return"),
        Metric("policy_ms", "policy, ms"),
    ),
}
"""Verb -> what is compared, the most important first; the first that is there is drawn."""


@dataclass(frozen=True)
class Result:
    """One cell and what became of it."""

    cell: Cell
    state: str
    """refused, fits, waiting, running, done, failed or interrupted."""
    seconds: float | None = None
    error: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    interval: tuple[float, float] | None = None
    """Of the success rate, 95 %."""


def metrics_of(verb: str, report: Mapping[str, Any] | None, folder: Path) -> dict[str, float]:
    """The values that are compared, from what a verb reported of the cell in `folder`."""
    if report is None:
        return {}
    found: dict[str, Any] = {}
    if verb == "train":
        found = {name: report.get(name) for name in ("loss", "samples_per_second")}
        found["validation_loss"] = _validation_loss(folder / RUN)
    elif verb == "bench":
        found = {
            "chunk_ms": report["chunk"]["median_ms"],
            "max_control_hz": report["max_control_hz"],
            "peak_gb": report["peak_bytes"] / 1e9,
        }
    elif verb == "eval":
        found = {"success_rate": report["success_rate"], "return": report["return"]}
        found["policy_ms"] = report.get("latency_ms", {}).get("policy", {}).get("p50")
    return {name: float(value) for name, value in found.items() if value is not None}


def _validation_loss(run: Path) -> float | None:
    """The lowest loss on held-out episodes; None if nothing was validated."""
    from ...train.logs import read

    lines = read(run / LOG)
    return min((line["validation"]["loss"] for line in lines if "validation" in line), default=None)


def interval_of(report: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """The interval of the success rate in a report of `eval`."""
    found = (report or {}).get("interval_95")
    return None if found is None else (float(found[0]), float(found[1]))


def as_data(
    source: Path, verb: str, axes: Sequence[Axis], zipped: bool, results: Sequence[Result]
) -> dict[str, Any]:
    """The sweep for programs, as in VERB.json."""
    return {
        "schema_version": SCHEMA,
        "spec": str(source),
        "run": verb,
        "axes": {axis.key: list(axis.values) for axis in axes},
        "zip": zipped,
        "cells": [
            {
                "folder": result.cell.point.folder,
                "settings": dict(result.cell.point.settings),
                "state": result.state,
                "seconds": result.seconds,
                "error": result.error,
                "metrics": dict(result.metrics),
                "success_interval_95": result.interval,
                "refused": [c.model_dump(mode="json") for c in result.cell.refused],
                "missing": [c.model_dump(mode="json") for c in result.cell.missing],
            }
            for result in results
        ],
    }


def expect_all_kept(out: Path, verb: str, cells: Sequence[Cell]) -> None:
    """Raise WamkitError if VERB.json of `out` has measured cells that are not among `cells`.

    The results are written anew, so these would be gone from the table, the figure and the JSON.
    """
    file = out / f"{verb}.json"
    if verb == "check" or not file.is_file():
        return
    try:
        found = strict_json.read(file, "remove it")["cells"]
        lost = [c for c in found if c["state"] == "done"]
        folders = {cell.point.folder for cell in cells}
        names = [str(c["folder"]) for c in lost if c["folder"] not in folders]
    except (WamkitError, KeyError, TypeError):
        return  # no results of a sweep
    if names:
        raise WamkitError(
            f"{file} has results of another grid, which these would replace: {few(names, 4)}",
            "choose another --out, or vary those values too: finished cells do not run again",
        )


def write_results(
    out: Path,
    verb: str,
    axes: Sequence[Axis],
    results: Sequence[Result],
    data: Mapping[str, Any],
    *,
    print_table: bool,
) -> list[Path]:
    """Write VERB.json, VERB.md (the table) and VERB.svg; print the table if asked to.

    Returns the files. Without the extra `plots` there is no figure, and a note says why.
    """
    from .figure import draw

    files = [out / f"{verb}.json", out / f"{verb}.md"]
    write_text(files[0], strict_json.dumps(data, indent=2) + "\n")
    headings, rows = rows_of(verb, axes, results)
    lines = [headings, ["---"] * len(headings), *rows]
    markdown = (f"| {' | '.join(map(escape_markdown, line))} |\n" for line in lines)
    write_text(files[1], "".join(markdown))
    if print_table:
        first = len(axes) + 1
        made = table(*headings, right=headings[first:], keep=headings[:first], keys=len(axes))
        for row in rows:
            made.add_row(*row)
        show_table(made)
    try:
        figure = draw(out / f"{verb}.svg", verb, axes, results)
    except WamkitError as error:
        note(f"no figure: {error.what}; {error.hint}")
    else:
        files += [figure] if figure is not None else []
    return files


def rows_of(
    verb: str, axes: Sequence[Axis], results: Sequence[Result]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of the table: settings, state, values, seconds."""
    names = short_names([axis.key for axis in axes])
    metrics = [m for m in METRICS[verb] if any(m.name in result.metrics for result in results)]
    timed = any(result.seconds is not None for result in results)
    headings = [*names.values(), "state", *(m.heading for m in metrics), *["seconds"] * timed]
    rows = []
    for result in results:
        values = [_value(result, metric) for metric in metrics]
        spent = "" if result.seconds is None else f"{result.seconds:.1f}"
        settings = [value for _, value in result.cell.point.settings]
        rows.append([*settings, result.state, *values, *[spent] * timed])
    return headings, rows


def _value(result: Result, metric: Metric) -> str:
    value = result.metrics.get(metric.name)
    if value is None:
        return ""
    if metric.name == "success_rate" and result.interval is not None:
        low, high = result.interval
        return f"{value:.0%} [{low:.0%}, {high:.0%}]"
    return metric.format(value)
