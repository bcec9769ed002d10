"""What `lerobot_tools.py` has LeRobot do, in the interpreter in which LeRobot is installed.

    PYTHON lerobot_side.py JOB.json

A job names data sets and a folder for results; a tool that fails does not stop the others. Needs
LeRobot (`pip install 'lerobot[dataset]'`) and nothing of wamkit.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("SVT_LOG", "1")

import numpy as np
from lerobot import __version__
from lerobot.datasets import dataset_tools as tools
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FRAMES = "frames.npz"
Result = dict[str, Path]  # which part of the expected episodes -> the folder in which it is


def opened(folder: Path) -> LeRobotDataset:
    """A data set on this machine; PyAV decodes its videos."""
    return LeRobotDataset(f"local/{folder.name}", root=folder, video_backend="pyav")


def copied(source: Path, goal: Path) -> LeRobotDataset:
    """A copy, for tools that change a data set in its place."""
    shutil.copytree(source, goal)
    return opened(goal)


def load(source: Path, other: Path, out: Path) -> Result:
    """Read every frame."""
    data = opened(source)
    for place in range(len(data)):
        item = data[place]
        assert int(item["index"]) == place and isinstance(item["task"], str)
    return {}


def add(source: Path, other: Path, out: Path) -> Result:
    """Record the episodes of FRAMES after those that are there."""
    shutil.copytree(source, out)
    data = LeRobotDataset.resume(f"local/{out.name}", root=out)
    _record(data, source.parent / FRAMES)
    return {"added": out}


def delete(source: Path, other: Path, out: Path) -> Result:
    """Delete episode 1."""
    tools.delete_episodes(opened(source), [1], output_dir=out)
    return {"without 1": out}


def split(source: Path, other: Path, out: Path) -> Result:
    """The first two episodes, and the others."""
    data = opened(source)
    rest = list(range(2, data.meta.total_episodes))
    tools.split_dataset(data, {"first": [0, 1], "rest": rest}, output_dir=out)
    return {name: out / name for name in ("first", "rest")}


def merge(source: Path, other: Path, out: Path) -> Result:
    """Two data sets in one."""
    tools.merge_datasets([opened(source), opened(other)], "local/merged", output_dir=out)
    return {"merged": out}


def remove_feature(source: Path, other: Path, out: Path) -> Result:
    """Remove the feature `reward`."""
    tools.remove_feature(opened(source), "reward", output_dir=out)
    return {"no reward": out}


def add_feature(source: Path, other: Path, out: Path) -> Result:
    """Add a number for every frame."""
    data = opened(source)
    values = np.arange(len(data), dtype=np.float32)
    about = {"dtype": "float32", "shape": (1,), "names": None}
    tools.add_features(data, {"extra": (values, about)}, output_dir=out)
    return {"extra": out}


def modify_tasks(source: Path, other: Path, out: Path) -> Result:
    """Give episode 0 another instruction."""
    tools.modify_tasks(copied(source, out), episode_tasks={0: "an instruction of its own"})
    return {"other task": out}


def recompute_stats(source: Path, other: Path, out: Path) -> Result:
    """Compute stats.json again from the frames."""
    tools.recompute_stats(copied(source, out))
    return {"all": out}


def to_video(source: Path, other: Path, out: Path) -> Result:
    """Images into mp4 files."""
    tools.convert_image_to_video_dataset(opened(source), output_dir=out, num_workers=1)
    return {"all": out}


def reencode(source: Path, other: Path, out: Path) -> Result:
    """Encode every mp4 file anew, in h264."""
    from lerobot.configs import RGBEncoderConfig

    tools.reencode_dataset(copied(source, out), rgb_encoder=RGBEncoderConfig(vcodec="h264", crf=18))
    return {"all": out}


TOOLS: dict[str, Callable[[Path, Path, Path], Result]] = {
    "load": load,
    "add": add,
    "delete": delete,
    "split": split,
    "merge": merge,
    "remove feature": remove_feature,
    "add feature": add_feature,
    "modify tasks": modify_tasks,
    "recompute statistics": recompute_stats,
    "images to video": to_video,
    "encode anew": reencode,
}


def record(features: dict[str, Any], frames: Path, out: Path, fps: int, robot: str) -> None:
    """A data set by LeRobot's own writer. `frames`: its episodes, as `_record` reads them."""
    typed = {name: one | {"shape": tuple(one["shape"])} for name, one in features.items()}
    _record(LeRobotDataset.create(f"local/{out.name}", fps, typed, out, robot), frames)


def _record(data: LeRobotDataset, frames: Path) -> None:
    """Episodes from an npz file: `EPISODE/task`, and `EPISODE/FEATURE` with a row a frame."""
    stored = np.load(frames)
    for episode in range(int(stored["episodes"])):
        names = [name for name in data.features if f"{episode}/{name}" in stored]
        values = {name: stored[f"{episode}/{name}"] for name in names}
        for t in range(len(values[names[0]])):
            frame = {name: column[t] for name, column in values.items()}
            data.add_frame(frame | {"task": str(stored[f"{episode}/task"])})
        data.save_episode(parallel_encoding=False)
    data.finalize()


def main(job: Path) -> None:
    """Do a job, and print one line of JSON: the version, and what came of each tool."""
    asked = json.loads(job.read_text())
    found: dict[str, Any] = {"lerobot": __version__, "python": sys.version.split()[0], "tools": {}}
    for one in asked.get("record", []):
        record(one["features"], Path(one["frames"]), Path(one["out"]), one["fps"], one["robot"])
    for name in asked.get("tools", []):
        out = Path(asked["out"]) / name.replace(" ", "_")
        try:
            made = TOOLS[name](Path(asked["source"]), Path(asked["other"]), out)
            entry: dict[str, Any] = {"made": {part: str(folder) for part, folder in made.items()}}
        except Exception as error:
            traceback.print_exc()
            entry = {"error": f"{type(error).__name__}: {error}"}
        found["tools"][name] = entry
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
