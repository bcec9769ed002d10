"""What a run tells while it goes: lines of JSON always, other loggers by choice, a curve."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import chart, strict_json
from .loggers import opened


class Log:
    """log.jsonl of a run, and other places where its lines go."""

    def __init__(
        self, run: Path, loggers: Iterable[str], after: int, settings: Mapping[str, Any]
    ) -> None:
        """What was logged for later steps than `after` is forgotten: it will be logged again.

        `settings` are shown by loggers that show settings.
        """
        self.file = run / "log.jsonl"
        kept = [line for line in read(self.file) if line["step"] <= after]
        part = self.file.with_name(".log.jsonl.part")
        part.write_text("".join(strict_json.dumps(line) + "\n" for line in kept))
        part.replace(self.file)
        self._stream = self.file.open("a", buffering=1)
        self._loggers = [opened(name, run, after, settings) for name in dict.fromkeys(loggers)]

    def write(self, step: int, told: Mapping[str, Any]) -> None:
        """One line; numbers in tables are named `table/name` elsewhere."""
        self._stream.write(strict_json.dumps({"step": step, **told}) + "\n")
        named = dict(_flat(told))
        for logger in self._loggers:
            logger.numbers(step, named)

    def picture(self, step: int, name: str, file: Path) -> None:
        """A picture that lies in the folder of the run, for those that show pictures."""
        for logger in self._loggers:
            logger.picture(step, name, file)

    def close(self) -> None:
        """Nothing more will be told."""
        self._stream.close()
        for logger in self._loggers:
            logger.close()


def _flat(told: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in told.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value


def read(file: Path) -> list[dict[str, Any]]:
    """The lines of a log; one that was cut short by a crash is left out."""
    lines = []
    for text in file.read_text().splitlines() if file.is_file() else ():
        try:
            lines.append(json.loads(text))
        except ValueError:
            continue
    return lines


def curve(run: Path) -> Path:
    """Draw the losses of a run over its steps into loss.svg."""
    series: dict[str, list[tuple[float, float]]] = {}
    for line in read(run / "log.jsonl"):
        losses = {"total": line["loss"], **line["parts"]} if "loss" in line else {}
        if "validation" in line:
            losses["held out"] = line["validation"]["loss"]
        for name, value in losses.items():
            series.setdefault(name, []).append((line["step"], value))
    return chart.write(run / "loss.svg", chart.lines(series, x="step", y="loss"))
