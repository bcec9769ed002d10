"""Loggers of metrics and images besides log.jsonl: TensorBoard, Trackio, Weights & Biases.

All three run without an account or a network: TensorBoard writes files into the folder of the run,
Trackio keeps a database on this machine, and wandb does with WANDB_MODE=offline.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import numpy as np

from ..errors import WamkitError
from ..files.durable import write_text
from ..files.images import open_image
from ..files.install import install_hint

PROJECT = "wamkit"
IDENTITY = "tracking.txt"  # in the folder of a run: what trackers know it by


class Logger(Protocol):
    """Logs scalars and images, in the first process."""

    def log_scalars(self, step: int, named: Mapping[str, float]) -> None:
        """Log scalars after `step` updates, by name."""

    def log_image(self, step: int, name: str, file: Path) -> None:
        """Log the image in a file, after `step` updates."""

    def close(self) -> None:
        """Close the logger."""


def expect(names: Iterable[str]) -> None:
    """Raise WamkitError unless those loggers are installed."""
    for name in names:
        if find_spec(name) is None:
            raise WamkitError(f"the logger {name} is not installed", install_hint(modules=[name]))


def open_logger(name: str, run: Path, after: int, settings: Mapping[str, Any]) -> Logger:
    """Open the logger of that name for the run in a folder, after `after` updates."""
    return TensorBoard(run, after) if name == "tensorboard" else Tracker(name, run, settings)


class TensorBoard:
    """Event files in the folder of the run: `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, after: int) -> None:
        """Purge metrics of steps after `after`: they will be logged again."""
        writer = import_module("torch.utils.tensorboard").SummaryWriter
        self._writer = writer(str(run), purge_step=after + 1)

    def log_scalars(self, step: int, named: Mapping[str, float]) -> None:
        """Log scalars of an update, by name."""
        for name, value in named.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, step: int, name: str, file: Path) -> None:
        """Log the image in a file."""
        with open_image(file, str(file)) as image:
            pixels = np.asarray(image.convert("RGB"))  # [height, width, 3]
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close the log."""
        self._writer.close()


class Tracker:
    """wandb, or trackio, which has the same interface."""

    def __init__(self, name: str, run: Path, settings: Mapping[str, Any]) -> None:
        """A resumed run keeps the id stored in its folder.

        Metrics of steps that will come again stay: neither service can delete them.
        """
        self._module: Any = import_module(name)
        known = run / IDENTITY
        if not known.is_file():
            write_text(known, f"{run.name}-{uuid4().hex[:8]}\n")
        identity = known.read_text().strip()
        options: dict[str, Any] = {"name": identity}
        if name == "wandb":
            options |= {"id": identity, "dir": str(run)}
        with redirect_stdout(sys.stderr):  # their output must not mix with that of a command
            self._module.init(project=PROJECT, config=dict(settings), resume="allow", **options)

    def log_scalars(self, step: int, named: Mapping[str, float]) -> None:
        """Log scalars of an update, by name."""
        self._module.log(dict(named), step=step)

    def log_image(self, step: int, name: str, file: Path) -> None:
        """Log the image in a file."""
        self._module.log({name: self._module.Image(str(file))}, step=step)

    def close(self) -> None:
        """Flush and close the log."""
        with redirect_stdout(sys.stderr):
            self._module.finish()
