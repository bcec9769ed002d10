"""The log of a run: JSON lines always, other loggers by choice, a loss curve."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..config.records import MOST
from ..files import plots, strict_json
from ..files.durable import as_not_written, sync, write_bytes, write_text
from ..files.install import install_hint
from ..files.placeholders import refuse_special
from .loggers import open_logger

SAFE = "the same command with --resume continues from the newest checkpoint, or begins again"
"""Sentence on what is safe if the log cannot be written."""


class ValidationLine(BaseModel):
    """The loss on held-out episodes."""

    model_config = ConfigDict(allow_inf_nan=False)

    loss: float


class Line(BaseModel):
    """A line of log.jsonl, as far as it is read again."""

    model_config = ConfigDict(allow_inf_nan=False)

    step: int = Field(ge=0, le=MOST)
    loss: float | None = None
    parts: dict[str, float] = Field(default_factory=dict)
    validation: ValidationLine | None = None


class Log:
    """log.jsonl of a run, and its other loggers."""

    def __init__(
        self,
        run: Path,
        loggers: Iterable[str],
        after: int,
        settings: Mapping[str, Any],
        note: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Lines of steps after `after` are dropped: they will be logged again.

        `settings` go to loggers that record settings. `note` is called with damaged lines;
        they are left out, and the log that had them is kept next to the new one. Raises WamkitError
        if the log cannot be written.
        """
        self.file = run / "log.jsonl"
        with as_not_written(self.file, SAFE):
            kept, damaged = _read_lines(self.file)
            if damaged:
                copy = self.file.with_name("log-damaged.jsonl")
                write_bytes(copy, self.file.read_bytes())
                places = ", ".join(map(str, damaged[:8])) + (" ..." if len(damaged) > 8 else "")
                note(f"{self.file} has damaged lines: {places}; left out, and kept in {copy.name}")
            lines = (strict_json.dumps(line) + "\n" for line in kept if line["step"] <= after)
            write_text(self.file, "".join(lines), SAFE)
            self._stream = self.file.open("a", buffering=1)
        self._loggers = [open_logger(name, run, after, settings) for name in dict.fromkeys(loggers)]

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one line; other loggers name values in tables `table/name`."""
        with as_not_written(self.file, SAFE):
            self._stream.write(strict_json.dumps({"step": step, **metrics}) + "\n")
        named = dict(_flat(metrics))
        for logger in self._loggers:
            logger.log_scalars(step, named)

    def image(self, step: int, name: str, file: Path) -> None:
        """Send an image in the folder of the run to loggers that accept images."""
        for logger in self._loggers:
            logger.log_image(step, name, file)

    def sync(self) -> None:
        """Flush to the disk, before a checkpoint refers to it."""
        with as_not_written(self.file, SAFE):
            sync(self.file)

    def close(self) -> None:
        """Close the log and all loggers."""
        with suppress(OSError):  # a failed write was already reported
            self._stream.close()
        for logger in self._loggers:
            logger.close()


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, value


def read(file: Path) -> list[dict[str, Any]]:
    """Read the lines of a log, without damaged ones, such as a line cut short by a crash."""
    return _read_lines(file)[0]


def newest_step(file: Path) -> int:
    """The last step in a log; 0 if there is none."""
    return max((line["step"] for line in read(file)), default=0)


def _read_lines(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Return the lines of a log, and the line numbers, from 1, of damaged ones.

    The last one does not count if a crash has cut it short.
    """
    refuse_special(file)
    lines, damaged = [], []
    texts = file.read_bytes().split(b"\n") if file.exists() else []
    for number, text in enumerate(texts, 1):
        if not text.strip():
            continue
        try:
            line = strict_json.loads(text)
            Line.model_validate(line, strict=True)
        except (ValueError, RecursionError, ValidationError):
            if number < len(texts):
                damaged.append(number)
            continue
        lines.append(line)
    return lines, damaged


def draw_losses(run: Path, note: Callable[[str], None] = lambda line: None) -> None:
    """Draw the losses of a run over its updates, on a logarithmic axis, as loss.svg.

    Without the extra `plots` nothing is drawn, and `note` says how to install it.
    """
    if absent := plots.missing_modules():
        note(f"no loss.svg without {' and '.join(absent)}: {install_hint('plots')}")
        return
    series: dict[str, list[tuple[float, float]]] = {}
    for line in read(run / "log.jsonl"):
        known = Line.model_validate(line)
        losses = {} if known.loss is None else {"total": known.loss, **known.parts}
        if known.validation is not None:
            losses["held out"] = known.validation.loss
        for name, value in losses.items():
            series.setdefault(name, []).append((known.step, value))
    with plots.style():
        figure = plots.lines(series, x="update", y="loss", log=True)
    plots.write(run / "loss.svg", figure, "the checkpoints are whole")
