"""Robot data: LeRobot folders in and out, training samples, checks, statistics, stored latents.

`Recording` is what a folder holds, `Samples` are what a policy learns from, `Loader` gives them in
batches in an order that can be resumed, `Writer` makes a folder. One sample on one screen: `Sample`
in `samples.py`. Reading needs `pip install -e ".[data]"` (pyarrow and PyAV), nothing of LeRobot.
"""

from __future__ import annotations

from .encoding import precompute
from .latents import StoredLatents
from .lerobot_format import TOLERANCE, Columns, Episode, Feature, Recording
from .loading import Loader, collate
from .samples import Sample, Samples, split
from .scaling import remarks
from .statistics import compute_statistics
from .validation import Finding, check
from .writer import Writer

__all__ = [
    "TOLERANCE",
    "Columns",
    "Episode",
    "Feature",
    "Finding",
    "Loader",
    "Recording",
    "Sample",
    "Samples",
    "StoredLatents",
    "Writer",
    "check",
    "collate",
    "compute_statistics",
    "precompute",
    "remarks",
    "split",
]
