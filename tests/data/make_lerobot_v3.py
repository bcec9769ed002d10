"""How lerobot_v3.json was made: what LeRobot's own writer stores of a few made-up frames.

    PYTHON tests/data/make_lerobot_v3.py

in an interpreter with LeRobot (`pip install 'lerobot[dataset]'`; Python 3.12). `episodes` is what
tests write again with wamkit, to compare.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

FPS, ROBOT = 10, "arm"
TASKS = ("pick up the cup", "put it down", "pick up the cup")
LENGTHS = (7, 1, 130)  # frames: one alone, and more than LeRobot looks at the images of
SMALL, LARGE = "observation.images.front", "observation.images.top"
FEATURES: dict[str, dict[str, Any]] = {
    SMALL: {"dtype": "video", "shape": (32, 64, 3)},
    LARGE: {"dtype": "image", "shape": (8, 310, 3)},
    "observation.state": {"dtype": "float32", "shape": (2,), "names": ["x", "y"]},
    "action": {"dtype": "float64", "shape": (3,), "names": None},
    "steps": {"dtype": "int64", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}
for _feature in FEATURES.values():
    if _feature["dtype"] in ("video", "image"):
        _feature["names"] = ["height", "width", "channels"]


def episodes() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Instruction and frames of each episode."""
    random = np.random.default_rng(0)
    for task, length in zip(TASKS, LENGTHS, strict=True):
        yield task, [_frame(random, t, length) for t in range(length)]


def _frame(random: np.random.Generator, t: int, length: int) -> dict[str, Any]:
    return {
        SMALL: random.integers(t, 100 + t, (32, 64, 3)).astype(np.uint8),
        LARGE: random.integers(0, 256, (8, 310, 3)).astype(np.uint8),
        "observation.state": random.normal(size=2).astype(np.float32),
        "action": random.normal(size=3),
        "steps": np.array([t * t], np.int64),
        "next.success": np.array([t == length - 1]),
    }


def main() -> None:
    """Write with LeRobot, and note columns, types, info.json and statistics."""
    import pyarrow.parquet as pq
    from lerobot import __version__
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "set"
        data = LeRobotDataset.create("local/set", FPS, FEATURES, root, ROBOT)
        for task, frames in episodes():
            for frame in frames:
                data.add_frame(frame | {"task": task})
            data.save_episode(parallel_encoding=False)
        data.finalize()
        tables = {
            name: pq.read_table(next((root / folder).rglob(pattern)))
            for name, folder, pattern in (
                ("data", "data", "*.parquet"),
                ("episodes", "meta/episodes", "*.parquet"),
                ("tasks", "meta", "tasks.parquet"),
            )
        }
        found = {
            "lerobot": __version__,
            "columns": {
                name: {field.name: str(field.type) for field in table.schema}
                for name, table in tables.items()
            },
            "info": json.loads((root / "meta" / "info.json").read_text()),
            "stats": json.loads((root / "meta" / "stats.json").read_text()),
            "episodes": tables["episodes"].to_pylist(),
        }
    file = Path(__file__).with_name("lerobot_v3.json")
    file.write_text(json.dumps(_short(found), separators=(",", ":")) + "\n")


def _short(data: Any) -> Any:
    """The same with 7 digits."""
    if isinstance(data, dict):
        return {name: _short(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_short(value) for value in data]
    return float(f"{data:.7g}") if isinstance(data, float) else data


if __name__ == "__main__":
    main()
