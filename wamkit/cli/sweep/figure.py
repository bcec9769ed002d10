"""The figure of a sweep: its most important value over the axis that is numeric, or as bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import plots
from .grid import Axis
from .results import METRICS, Metric, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 20
"""An axis whose values lie further apart than this, as a ratio, is logarithmic."""

Lines = dict[str, list[tuple[float, Result]]]


def draw(file: Path, verb: str, axes: Sequence[Axis], results: Sequence[Result]) -> Path | None:
    """Write the figure to `file`, .svg or .png; None if no cell has a value.

    Raises WamkitError without the extra `plots`.
    """
    metric = next((m for m in METRICS[verb] if any(m.name in r.metrics for r in results)), None)
    if metric is None:
        return None
    known = [result for result in results if metric.name in result.metrics]
    over = next((axis for axis in axes if _numbers(axis.values) is not None), None)
    with plots.style():
        if over is None:
            bars = {result.cell.label: result.metrics[metric.name] for result in known}
            figure = plots.bars({metric.heading: bars})
        else:
            lines = _lines(known, over)
            points = {
                name: [(x, result.metrics[metric.name]) for x, result in line]
                for name, line in lines.items()
            }
            figure = plots.lines(points, x=over.key, y=metric.heading)
            _finish(figure.axes[0], lines, metric)
        return plots.write(file, figure)


def _numbers(values: Sequence[str]) -> list[float] | None:
    """The values as numbers; None if one is none."""
    try:
        return [float(value) for value in values]
    except ValueError:
        return None


def _lines(known: Sequence[Result], over: Axis) -> Lines:
    """A line for each combination of the other axes' values, its points in order."""
    lines: Lines = {}
    for result in known:
        settings = dict(result.cell.point.settings)
        x = float(settings.pop(over.key))
        name = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in settings.items())
        lines.setdefault(name or over.key, []).append((x, result))
    return {name: sorted(line, key=lambda point: point[0]) for name, line in lines.items()}


def _finish(axes: Axes, lines: Lines, metric: Metric) -> None:
    """Intervals of success rates, and a logarithmic axis where values lie far apart."""
    for line, drawn in zip(lines.values(), list(axes.lines), strict=True):
        for x, result in line if metric.name == "success_rate" else ():
            if result.interval is not None:
                axes.vlines(x, *result.interval, color=str(drawn.get_color()), alpha=0.5)
    places = sorted({x for line in lines.values() for x, _ in line})
    if places[0] > 0 and places[-1] > WIDE * places[0]:
        axes.set_xscale("log")
        axes.set_xticks(places, [f"{x:g}" for x in places])
        axes.minorticks_off()
