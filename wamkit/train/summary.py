"""Summary of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Summary:
    """Result of a run, in this session."""

    step: int
    seconds: float
    samples_per_second: float
    tokens_per_second: float
    waiting: float  # share of the time that no batch was there
    utilization: float | None  # of the devices' peak, where that is known
    loss: float | None  # of the last logged update
    checkpoint: Path
    best: Path | None  # of all that were validated, also before; None if none was
    interrupted: bool
    imagined: dict[str, dict[str, float]] | None = None
    """"policy" and "copy" -> metric of imagined held-out frames, the last measured."""
