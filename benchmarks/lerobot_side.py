"""What `lerobot_tools.py` has LeRobot do, in the interpreter in which LeRobot is installed.

    PYTHON lerobot_side.py JOB.json

A job names data sets and a folder for results; a tool that fails does not stop the others. Needs
LeRobot (`pip install 'lerobot[dataset]'`) and nothing of wamkit.
"""

from __future__ import annotations

import json
import os
import re
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
from lerobot.configs import RGBEncoderConfig, encoder_config_from_video_info
from lerobot.datasets import dataset_tools as tools
from lerobot.datasets.lerobot_dataset import LeRobotDataset

Job = dict[str, Any]
Result = dict[str, Path]  # what `lerobot_tools.expected` gives for it -> the folder it is in


def reader(folder: str | Path) -> LeRobotDataset:
    """A data set on this machine; PyAV decodes its videos."""
    return LeRobotDataset(f"local/{Path(folder).name}", root=folder, video_backend="pyav")


def copied(source: str, goal: Path) -> LeRobotDataset:
    """A copy, for tools that change a data set in its place."""
    shutil.copytree(source, goal)
    return reader(goal)


def load(job: Job, out: Path) -> Result:
    """Read every frame."""
    data = reader(job["source"])
    for place in range(len(data)):
        item = data[place]
        assert int(item["index"]) == place and isinstance(item["task"], str)
    return {}


def add(job: Job, out: Path) -> Result:
    """Record episodes after those that are there."""
    _resume(shutil.copytree(job["source"], out), job)
    return {"added": out}


def delete(job: Job, out: Path) -> Result:
    """Delete episode 1."""
    tools.delete_episodes(reader(job["source"]), [1], output_dir=out)
    return {"without 1": out}


def split(job: Job, out: Path) -> Result:
    """The first two episodes, and the others."""
    data = reader(job["source"])
    rest = list(range(2, data.meta.total_episodes))
    tools.split_dataset(data, {"first": [0, 1], "rest": rest}, output_dir=out)
    return {name: out / name for name in ("first", "rest")}


def merge(job: Job, out: Path) -> Result:
    """Two data sets of wamkit in one."""
    tools.merge_datasets([reader(job["source"]), reader(job["other"])], "local/one", output_dir=out)
    return {"merged": out}


def merge_own(job: Job, out: Path) -> Result:
    """One that LeRobot recorded, and one of wamkit."""
    tools.merge_datasets([reader(job["own"]), reader(job["source"])], "local/one", output_dir=out)
    return {"merged with LeRobot's": out}


def remove_feature(job: Job, out: Path) -> Result:
    """Remove the reward."""
    tools.remove_feature(reader(job["source"]), "next.reward", output_dir=out)
    return {"no next.reward": out}


def remove_camera(job: Job, out: Path) -> Result:
    """Remove the last camera."""
    data = reader(job["source"])
    tools.remove_feature(data, data.meta.camera_keys[-1], output_dir=out)
    return {f"no {data.meta.camera_keys[-1]}": out}


def add_feature(job: Job, out: Path) -> Result:
    """Add a number for every frame."""
    data = reader(job["source"])
    values = np.arange(len(data), dtype=np.float32)
    about = {"dtype": "float32", "shape": (1,), "names": None}
    tools.add_features(data, {"extra": (values, about)}, output_dir=out)
    return {"all": out}


def modify_tasks(job: Job, out: Path) -> Result:
    """Give episode 0 another instruction."""
    tools.modify_tasks(copied(job["source"], out), episode_tasks={0: "an instruction of its own"})
    return {"other task": out}


def recompute_stats(job: Job, out: Path) -> Result:
    """Compute stats.json again from the frames."""
    tools.recompute_stats(copied(job["source"], out))
    return {"all": out}


def to_video(job: Job, out: Path) -> Result:
    """Images into mp4 files."""
    tools.convert_image_to_video_dataset(reader(job["source"]), output_dir=out, num_workers=1)
    return {"all": out}


def reencode(job: Job, out: Path) -> Result:
    """Encode every mp4 file anew, in h264."""
    encoder = RGBEncoderConfig(vcodec="h264", crf=18)
    tools.reencode_dataset(copied(job["source"], out), rgb_encoder=encoder)
    return {"all": out}


def chain(job: Job, out: Path) -> Result:
    """Merge, delete episode 1 of the result, and record more."""
    first, second = out.with_name("chain_1"), out.with_name("chain_2")
    merged = tools.merge_datasets(
        [reader(job["source"]), reader(job["other"])], "local/one", output_dir=first
    )
    tools.delete_episodes(merged, [1], output_dir=second)
    _resume(shutil.copytree(second, out), job)
    return {"chained": out}


TOOLS: dict[str, Callable[[Job, Path], Result]] = {
    "load": load,
    "add episodes": add,
    "delete episodes": delete,
    "split": split,
    "merge": merge,
    "merge with LeRobot's": merge_own,
    "remove a feature": remove_feature,
    "remove a camera": remove_camera,
    "add a feature": add_feature,
    "modify tasks": modify_tasks,
    "recompute statistics": recompute_stats,
    "convert images to video": to_video,
    "encode videos anew": reencode,
    "merge, delete, add": chain,
}


def _resume(folder: Path, job: Job) -> None:
    """Record after the episodes of a data set, encoded as its videos are."""
    data = reader(folder)
    known = [data.meta.features[key]["info"] for key in data.meta.video_keys]
    encoder = encoder_config_from_video_info(known[0]) if known else None
    _record(
        LeRobotDataset.resume(f"local/{folder.name}", folder, rgb_encoder=encoder), job["added"]
    )


def record(job: Job) -> None:
    """A data set by LeRobot's own writer."""
    typed = {name: one | {"shape": tuple(one["shape"])} for name, one in job["features"].items()}
    out, codec = Path(job["out"]), {"av1": "libsvtav1"}.get(job["codec"], job["codec"])
    encoder = RGBEncoderConfig(vcodec=codec, crf=30 if job["codec"] == "av1" else 23)
    _record(
        LeRobotDataset.create(
            f"local/{out.name}", job["fps"], typed, out, job["robot"], rgb_encoder=encoder
        ),
        job["frames"],
    )


def _record(data: LeRobotDataset, frames: str) -> None:
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
        record(one)
    for name in asked.get("tools", []):
        out = Path(asked["out"]) / re.sub("[^a-z]+", "_", name.lower())
        try:
            made = TOOLS[name](asked, out)
            entry: dict[str, Any] = {"made": {part: str(folder) for part, folder in made.items()}}
        except Exception as error:
            traceback.print_exc()
            entry = {"error": f"{type(error).__name__}: {error}"}
        found["tools"][name] = entry
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
