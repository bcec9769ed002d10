"""Where a run's numbers and images go besides log.jsonl: TensorBoard, Trackio, Weights & Biases.

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
        """Numbers after so many updates."""

    def log_image(self, step: int, name: str, file: Path) -> None:
        """An image in a file, after so many updates."""

    def close(self) -> None:
        """Close the logger."""


def expect(names: Iterable[str]) -> None:
    """Raise WamkitError unless those loggers are installed."""
    for name in names:
        if find_spec(name) is None:
            raise WamkitError(f"the logger {name} is not installed", install_hint(modules=[name]))


def open_logger(name: str, run: Path, after: int, settings: Mapping[str, Any]) -> Logger:
    """The logger of that name for the run in a folder, of which `after` updates are behind."""
    return TensorBoard(run, after) if name == "tensorboard" else Tracker(name, run, settings)


class TensorBoard:
    """Event files in the folder of the run: `tensorboard --logdir RUN`."""

    def __init__(self, run: Path, after: int) -> None:
        """Metrics of steps after `after` are hidden: they will be logged again."""
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
        """Write what is pending and end the log."""
        self._writer.close()


class Tracker:
    """wandb, or trackio, which speaks as wandb does."""

    def __init__(self, name: str, run: Path, settings: Mapping[str, Any]) -> None:
        """A run that is resumed goes on under the name that is kept in its folder.

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
        with redirect_stdout(sys.stderr):  # what they say is no answer of a command
            self._module.init(project=PROJECT, config=dict(settings), resume="allow", **options)

    def log_scalars(self, step: int, named: Mapping[str, float]) -> None:
        """Log scalars of an update, by name."""
        self._module.log(dict(named), step=step)

    def log_image(self, step: int, name: str, file: Path) -> None:
        """Log the image in a file."""
        self._module.log({name: self._module.Image(str(file))}, step=step)

    def close(self) -> None:
        """Write what is pending and end the log."""
        with redirect_stdout(sys.stderr):
            self._module.finish()
