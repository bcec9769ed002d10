"""How far a sweep is: a line for each cell that ends, and what the rest will take."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

from .._folding import duration
from .._output import console
from .results import METRICS, Result
from .runs import last_update


class Progress:
    """A bar on a terminal's stderr, and a line there, or in a pipe, when a cell ends."""

    def __init__(self, total: int) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
        )
        from rich.progress import (
            Progress as Bar,
        )

        self._total, self._ended, self._times = total, 0, list[float]()
        self._begin, self._label = perf_counter(), ""
        columns: list[Any] = [TextColumn("{task.description}", markup=False), BarColumn()]
        columns += [MofNCompleteColumn(), TimeElapsedColumn()]
        self._bar = Bar(*columns, console=console(stderr=True), transient=True)
        self._task = self._bar.add_task("sweep", total=total)

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def begin(self, label: str) -> None:
        """A cell begins."""
        self._begin, self._label = perf_counter(), label
        self._bar.update(self._task, description=label)

    def look(self, folder: Path) -> None:
        """Show how far training is in the folder of the cell that was begun."""
        if far := last_update(folder):
            self._bar.update(self._task, description=f"{self._label}: {far}")

    def end(self, verb: str, result: Result, *, fresh: bool) -> None:
        """A cell has ended now; or it had ended before, if it is not `fresh`."""
        self._ended += 1
        self._bar.update(self._task, completed=self._ended)
        if fresh:
            self._times.append(perf_counter() - self._begin)
        self._bar.console.print(self._line(verb, result, fresh), soft_wrap=True)

    def _line(self, verb: str, result: Result, fresh: bool) -> str:
        line = f"{self._ended}/{self._total} {result.cell.label}: {result.state}"
        line += f" in {duration(self._times[-1])}" if fresh else " before"
        metric = next((m for m in METRICS[verb] if m.name in result.metrics), None)
        if metric is not None:
            line += f", {metric.heading} = {metric.format(result.metrics[metric.name])}"
        if result.error:
            line += f": {result.error.splitlines()[0]}"
        left = self._total - self._ended
        if fresh and left and result.state != "interrupted":
            line += f"; about {duration(left * sum(self._times) / len(self._times))} left"
        return line
