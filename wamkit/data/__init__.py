"""Robot data: LeRobot folders in and out, training samples, checks, statistics, stored latents.

`LeRobotFolder` is a folder on disk, `Samples` are the training samples in it, `Loader` yields them
in batches in an order that can be resumed, `Writer` writes a folder. `Sample` in `samples.py` shows
one sample on one screen. Reading needs `pip install -e ".[data]"` (pyarrow and PyAV), not LeRobot.
"""

from __future__ import annotations

from .encoding import precompute
from .latents import StoredLatents
from .lerobot_format import TOLERANCE, Columns, Episode, Feature, LeRobotFolder
from .loading import Loader, collate
from .samples import Sample, Samples, split
from .scaling import scaling_notes
from .statistics import compute_statistics
from .validation import Finding, check
from .writer import Writer

__all__ = [
    "TOLERANCE",
    "Columns",
    "Episode",
    "Feature",
    "Finding",
    "LeRobotFolder",
    "Loader",
    "Sample",
    "Samples",
    "StoredLatents",
    "Writer",
    "check",
    "collate",
    "compute_statistics",
    "precompute",
    "scaling_notes",
    "split",
]
