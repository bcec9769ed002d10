"""meta/info.json of a LeRobot folder of version 3, as `DatasetInfo` of lerobot 0.6.1 reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..errors import WamkitError
from .lerobot_format import OWN, Feature
from .video_writer import video_info

DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
LIMITS = {"chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200}
"""Files in a folder, and megabytes of a file after which another is begun."""


def new_info(
    fps: float, features: Mapping[str, Feature], robot_type: str, codecs: Mapping[str, str]
) -> dict[str, Any]:
    """Return info.json of a data set without episodes. `codecs`: camera -> codec of its videos."""
    kinds = {"timestamp": "float32"}
    typed: dict[str, Any] = {}
    for name, feature in features.items():
        names = ["height", "width", "channels"] if feature.is_image else feature.names
        typed[name] = {"dtype": feature.dtype, "shape": list(feature.shape), "names": names}
        if feature.dtype == "video":
            typed[name]["info"] = video_info(feature.size, fps, codecs[name])
    for name in OWN:
        typed[name] = {"dtype": kinds.get(name, "int64"), "shape": [1], "names": None}
    films = any(feature.dtype == "video" for feature in features.values())
    return {
        "codebase_version": "v3.0",
        "robot_type": robot_type,
        "total_episodes": 0,
        "total_frames": 0,
        "total_tasks": 0,
        **LIMITS,
        "fps": int(fps) if float(fps).is_integer() else fps,
        "splits": {"train": "0:0"},
        "data_path": DATA,
        "video_path": VIDEO if films else None,
        "features": typed,
    }


def limit_of(info: Mapping[str, Any], name: str) -> float:
    """Return one of `LIMITS` from info.json if it is positive and finite, else the default."""
    value = info.get(name)
    if isinstance(value, int | float) and 0 < value < math.inf:
        return value
    return LIMITS[name]


def with_totals(old: Mapping[str, Any], episodes: int, frames: int, tasks: int) -> dict[str, Any]:
    """Update the totals; keep all other keys.

    The split `train` grows if it was of all episodes. Other splits are a choice that stays.
    """
    totals = {"total_episodes": episodes, "total_frames": frames, "total_tasks": tasks}
    whole = {"train": f"0:{old.get('total_episodes', 0)}"}
    splits = old.get("splits") or whole
    grown = {"train": f"0:{episodes}"} if splits == whole else splits
    return {**old, **totals, "splits": grown}


def expect_places(info: Mapping[str, Any], folder: object) -> None:
    """Raises WamkitError unless files are where LeRobot's own tools look for them."""
    video = info.get("video_path") or VIDEO
    if (info.get("data_path"), video) != (DATA, VIDEO):
        raise WamkitError(
            f"the files of {folder} are at {info.get('data_path')} and {video}; episodes are added "
            f"to {DATA} and {VIDEO}",
            "write to another folder",
        )
