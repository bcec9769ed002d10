"""What a run tells while it goes: lines of JSON always, other loggers by choice, a picture."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import chart
from ..errors import WamkitError

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb"}


def expect(loggers: Iterable[str]) -> None:
    """Raise WamkitError unless those loggers are installed."""
    for name in loggers:
        if find_spec(PACKAGES[name]) is None:
            raise WamkitError(f"the logger {name} is not installed", f"pip install {name}")


class Log:
    """log.jsonl of a run, and other places where its lines go."""

    def __init__(self, run: Path, loggers: Iterable[str], after: int) -> None:
        """What was logged for later steps than `after` is forgotten: it will be logged again."""
        self.file = run / "log.jsonl"
        kept = [line for line in read(self.file) if line["step"] <= after]
        part = self.file.with_name(".log.jsonl.part")
        part.write_text("".join(json.dumps(line) + "\n" for line in kept))
        part.replace(self.file)
        self._stream = self.file.open("a", buffering=1)
        self._board = self._wandb = None
        if "tensorboard" in loggers:
            self._board = import_module("torch.utils.tensorboard").SummaryWriter(str(run))
        if "wandb" in loggers:
            self._wandb = import_module("wandb").init(
                dir=str(run), name=run.name, id=run.name, resume="allow"
            )

    def write(self, step: int, told: Mapping[str, Any]) -> None:
        """One line; numbers in tables are named `table/name` elsewhere."""
        self._stream.write(json.dumps({"step": step, **told}) + "\n")
        flat = dict(_flat(told))
        if self._board is not None:
            for name, value in flat.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(flat, step=step)

    def close(self) -> None:
        """Nothing more will be told."""
        self._stream.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


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
