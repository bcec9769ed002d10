"""LeRobot's own tools on data sets that wamkit wrote, and what wamkit reads of their results.

    python benchmarks/lerobot_tools.py [--lerobot PYTHON] [--sets NAME ...] [--out FOLDER]

PYTHON is an interpreter in which LeRobot is installed (`pip install 'lerobot[dataset]'` in an
environment of its own; it needs Python 3.12), by default $LEROBOT_PYTHON, or this one. Ends
without an error where there is none.

Every result is checked as `wamkit data check --decode` does, read as training samples of
examples/toy.toml, and compared with what the data set held before: instructions and numbers must be
equal, images within CLOSE. `statistics` is the largest difference between those of each episode in
wamkit's files and in LeRobot's own for the same frames, as a share of their range.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wamkit.config.spec import override, parse, read
from wamkit.data import Columns, Feature, LeRobotFolder, Samples, Writer, check, parquet
from wamkit.data.reader import ColumnStore, FrameReader

HERE = Path(__file__).parent
CLOSE = 8.0  # of 255: the mean difference of an image that was encoded once more
STATISTICS = 2.5e-3  # of the range: LeRobot adds up squares in float32, and has quantiles of bins
FRONT, WRIST = "observation.images.front", "observation.images.wrist"
SIZES = {FRONT: (48, 64), WRIST: (64, 48)}
LENGTHS = (12, 9, 130, 11)  # frames; LeRobot looks at 100 images of an episode of 130
COUNTED = ("index", "episode_index", "frame_index", "timestamp", "task_index")
MISSING = "LeRobot is not installed here: nothing to try"
TASKS = ("button-press-topdown-v3", "drawer-close-v3")
TOOLS = (
    "load",
    "add episodes",
    "delete episodes",
    "split",
    "merge",
    "merge with LeRobot's",
    "remove a feature",
    "remove a camera",
    "add a feature",
    "modify tasks",
    "recompute statistics",
    "convert images to video",
    "encode videos anew",
    "merge, delete, add",
)


@dataclass(frozen=True)
class Episode:
    """What one episode holds."""

    task: str
    columns: Mapping[str, NDArray[Any]]  # name -> [frames, size]
    images: Mapping[str, NDArray[np.uint8]]  # camera -> [frames, height, width, 3]

    def __len__(self) -> int:
        return len(self.columns["action"])


Content = tuple[Episode, ...]


def made(first: int, lengths: Sequence[int]) -> Content:
    """Episodes numbered from `first` on, in which every frame is another."""
    return tuple(_episode(first + place, length) for place, length in enumerate(lengths))


def _episode(number: int, length: int) -> Episode:
    t = np.arange(length, dtype=np.float32)[:, None]
    random = np.random.default_rng(number)
    columns = {
        "observation.state": number + random.normal(size=(length, 2)).astype(np.float32),
        "action": t / 10 + np.arange(4, dtype=np.float32),
        "next.reward": random.random((length, 1)).astype(np.float32),
        "next.success": t == length - 1,
    }
    images = {}
    for camera, (height, width) in SIZES.items():
        rows, across = np.mgrid[:height, :width]
        planes = [rows * 2, across, rows + across]
        shifts = [30 * channel + 7 * number + t[..., None] for channel in range(3)]
        pairs = zip(planes, shifts, strict=True)
        levels = np.stack([(plane + shift) % 256 for plane, shift in pairs], -1)
        images[camera] = (levels // 2 + 40).astype(np.uint8)
    return Episode(f"task {number % 3}", columns, images)


def features(dtype: str) -> dict[str, Feature]:
    """The features of `made`, with images of this dtype."""
    names = ["height", "width", "channels"]
    return {
        **{camera: Feature(dtype, (*size, 3), names) for camera, size in SIZES.items()},
        "observation.state": Feature("float32", (2,), ["x", "y"]),
        "action": Feature("float32", (4,)),
        "next.reward": Feature("float32", (1,)),
        "next.success": Feature("bool", (1,)),
    }


def write(folder: Path, content: Content, like: Mapping[str, Feature], **options: Any) -> None:
    """A data set by wamkit's writer, or episodes added to it. `keep`: saved after each."""
    keep, fps, robot = (options.pop(name, None) for name in ("keep", "fps", "robot"))
    with Writer(folder, fps or 10, like, robot or "arm", **options) as writer:
        for episode in content:
            for t in range(len(episode)):
                values = {**episode.columns, **episode.images}
                writer.add_frame({name: values[name][t] for name in like})
            writer.add_episode(episode.task)
            if keep:
                writer.keep()


def content_of(folder: Path) -> Content:
    """What wamkit reads of a data set."""
    recording = LeRobotFolder(folder)
    names = [n for n, f in recording.features.items() if not f.is_image]
    numbers, images = ColumnStore(recording, recording.episodes, names), FrameReader(recording)
    found = []
    for place, episode in enumerate(recording.episodes):
        columns = {name: numbers.episode_values(place, name) for name in names}
        (task,) = {recording.tasks[int(number)] for number in columns["task_index"][:, 0]}
        assert not episode.tasks or episode.tasks == (task,)
        frames = list(range(episode.length))
        seen = {camera: images.read(episode, camera, frames) for camera in recording.cameras}
        found.append(Episode(task, columns, seen))
    return tuple(found)


@dataclass(frozen=True)
class Set:
    """A data set before the tools."""

    dtype: str = "video"
    codec: str = "av1"
    begun: str = ""  # by whom its first two episodes were written, if not with the others
    keep: bool = False  # saved after each episode
    collected: bool = False  # from a simulator, by `wamkit collect` and `wamkit collect --append`

    def write(self, folder: Path, lerobot: LeRobot) -> None:
        """Write it to a folder."""
        if self.collected:
            _collect(folder, self.dtype)
            return
        content, like = made(0, LENGTHS), features(self.dtype)
        rest = content[2:] if self.begun else content
        if self.begun == "LeRobot":
            lerobot.record(folder, content[:2], like, self.codec)
        elif self.begun:
            write(folder, content[:2], like, codec=self.codec)
            _older(folder)
        write(folder, rest, like, keep=self.keep, codec=None if self.begun else self.codec)


SETS = {
    "video, av1": Set(),
    "video, h264": Set(codec="h264"),
    "images": Set("image"),
    "video, saved after each episode": Set(keep=True),
    "video, added to LeRobot's": Set(begun="LeRobot"),
    "images, added to LeRobot's": Set("image", begun="LeRobot"),
    "video, added to an older one of wamkit's": Set(codec="h264", begun="wamkit"),
    "wamkit collect, Meta-World": Set(collected=True),
    "wamkit collect, Meta-World, images": Set("image", collected=True),
}


def _older(folder: Path) -> None:
    """Take away what wamkit did not write before it wrote for LeRobot's tools."""
    (file,) = (folder / "meta" / "episodes").rglob("*.parquet")
    table = parquet.read(file)
    names = [n for n in table.column_names if not n.startswith(("stats/", "meta/"))]
    parquet.import_pyarrow().parquet.write_table(table.select(names), file)


def _collect(folder: Path, dtype: str) -> None:
    """Two episodes of a task, and two of another added."""
    command = [sys.executable, "-m", "wamkit", "collect"]
    settings = ["--episodes", "2", "--size", "48", "--processes", "0", "--image-format", dtype]
    for place, task in enumerate(TASKS):
        more = ["--append"] * (place > 0)
        args = [*command, f"metaworld:{task}", *settings, "--out", str(folder), *more]
        subprocess.run(args, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class LeRobot:
    """LeRobot in an interpreter of its own."""

    def __init__(self, python: str, home: Path) -> None:
        self.python, self.home = python, home
        self.version = ""
        self._jobs = 0

    def run(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Do a job of `lerobot_side.py`. Raises CalledProcessError if it fails as a whole."""
        self._jobs += 1
        file, log = self.home / f"job-{self._jobs}.json", self.home / f"job-{self._jobs}.log"
        file.write_text(json.dumps(job, default=str))
        places = {"HF_HOME": str(self.home / "hf"), "HF_LEROBOT_HOME": str(self.home / "lerobot")}
        with log.open("w") as reader:
            done = subprocess.run(
                [self.python, str(HERE / "lerobot_side.py"), str(file)],
                env=os.environ | places,
                stdout=subprocess.PIPE,
                stderr=reader,
                text=True,
                check=True,
            )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.version = f"LeRobot {found['lerobot']}, Python {found['python']}"
        return found

    def record(
        self, folder: Path, content: Content, like: Mapping[str, Feature], codec: str, **about: Any
    ) -> None:
        """A data set by LeRobot's own writer."""
        typed = {
            name: {"dtype": one.dtype, "shape": one.shape, "names": one.names}
            for name, one in like.items()
        }
        frames = stored(folder.with_suffix(".npz"), content, like)
        job = {"features": typed, "frames": frames, "out": folder, "codec": codec}
        self.run({"record": [{"fps": 10, "robot": "arm"} | about | job]})


def stored(file: Path, content: Content, like: Mapping[str, Feature]) -> Path:
    """Episodes as an npz file, as `lerobot_side.py` reads it."""
    arrays: dict[str, Any] = {"episodes": len(content)}
    for place, episode in enumerate(content):
        values = {**episode.columns, **episode.images}
        arrays |= {f"{place}/{name}": values[name] for name in like}
        arrays[f"{place}/task"] = episode.task
    np.savez(file, **arrays)
    return file


def expected(part: str, source: Content, other: Content, own: Content, added: Content) -> Content:
    """What a tool should have made, by the name of the part in `lerobot_side.py`."""
    if part.startswith("no "):
        return tuple(_without(episode, part.removeprefix("no ")) for episode in source)
    if part == "other task":
        return (replace(source[0], task="an instruction of its own"), *source[1:])
    parts = {
        "all": source,
        "added": (*source, *added),
        "without 1": (source[0], *source[2:]),
        "first": source[:2],
        "rest": source[2:],
        "merged": (*source, *other),
        "merged with LeRobot's": (*own, *source),
        "chained": (source[0], *source[2:], *other, *added),
    }
    return parts[part]


def _without(episode: Episode, name: str) -> Episode:
    columns = {key: value for key, value in episode.columns.items() if key != name}
    images = {key: value for key, value in episode.images.items() if key != name}
    return replace(episode, columns=columns, images=images)


def faults(folder: Path, wanted: Content) -> Iterator[str]:
    """Everything in which a data set is not what is wanted, or not what training can use."""
    for finding in check(folder, decode=True):
        yield f"{finding.file}: {finding.why}"
    found = content_of(folder)
    if len(found) != len(wanted):
        yield f"{len(found)} episodes for {len(wanted)}"
    both = zip(found, wanted, strict=False)  # another number of episodes is reported above
    for place, (mine, right) in enumerate(both):
        yield from (f"episode {place}: {why}" for why in _differences(mine, right))
    frames = sum(map(len, found))
    if not found[0].images:
        return
    try:
        samples = Samples(folder, *policy(folder))
        prompts = [samples[place]["prompt"] for place in (0, frames - 1)]
        if len(samples) != frames or prompts != [found[0].task, found[-1].task]:
            yield f"{len(samples)} training samples, with {prompts}"
    except Exception as error:
        yield f"no training samples: {error}"


def _differences(mine: Episode, right: Episode) -> Iterator[str]:
    if mine.task != right.task:
        yield f"task {mine.task!r} for {right.task!r}"
    names = [name for name in right.columns if name not in COUNTED]
    if extra := {"next.reward", *names} ^ {"next.reward", *mine.columns} - {"extra", *COUNTED}:
        yield f"columns {sorted(extra)}"
    for name in names:
        if name in mine.columns and not np.array_equal(mine.columns[name], right.columns[name]):
            yield f"{name} is not what it was"
    if mine.images.keys() != right.images.keys():
        yield f"cameras {sorted(mine.images)} for {sorted(right.images)}"
        return
    for camera, images in right.images.items():
        if mine.images[camera].shape != images.shape:
            yield f"{len(mine.images[camera])} images of {camera} for {len(images)}"
            continue
        off = np.abs(mine.images[camera].astype(float) - images).mean((1, 2, 3))
        if off.max() > CLOSE:
            yield f"image {off.argmax()} of {camera} is {off.max():.1f} of 255 off"


def policy(folder: Path) -> tuple[Any, Columns]:
    """A policy that can learn from a data set, and which of its columns are what."""
    recording = LeRobotFolder(folder)
    raw = override(
        dict(read(HERE.parent / "examples" / "toy.toml")), [f"actions.control_hz={recording.fps:g}"]
    )
    return parse(raw), Columns({"front": recording.cameras[0]})


def statistics_differ(mine: Path, theirs: Path) -> float:
    """The largest difference between statistics of episodes, as a share of the feature's range."""
    worst = 0.0
    for one, other in zip(_episode_rows(mine), _episode_rows(theirs), strict=True):
        names = [name for name in other if name.startswith("stats/")]
        if set(names) - one.keys():
            return float("inf")
        for name in names:
            feature = name.rsplit("/", 1)[0]
            low, high = (np.array(other[f"{feature}/{end}"]) for end in ("min", "max"))
            scale = np.maximum(high - low, np.maximum(1e-6 * np.abs(high), 1e-6))
            off = np.abs(np.array(one[name], float) - np.array(other[name], float))
            worst = max(worst, float((off / scale).max()))
    return worst


def _episode_rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "meta" / "episodes").rglob("*.parquet"))
    return [row for file in files for row in parquet.rows(file)]


def tried(name: str, lerobot: LeRobot) -> Iterator[tuple[str, str]]:
    """What came of each tool, and before them of the data set itself and its statistics."""
    one = SETS[name]
    home = lerobot.home / re.sub("[^a-z0-9]+", "_", name.lower())
    home.mkdir()
    source, other, own = home / "source", home / "other", home / "own"
    one.write(source, lerobot)
    before, recording = content_of(source), LeRobotFolder(source)
    if one.collected:
        given, second, added = before, before[1:3], before[:2]
    else:
        given, second, added = made(0, LENGTHS), made(4, (10, 8)), made(6, (7, 9))
    like = {n: f for n, f in recording.features.items() if n not in COUNTED}
    about = {"fps": int(recording.fps), "robot": str(recording.info["robot_type"])}
    write(other, second, like, codec=one.codec, **about)
    lerobot.record(own, given, like, one.codec, **about)
    yield "(as written)", "; ".join(faults(source, given)) or "ok"
    if one.dtype == "image" or (not one.collected and one.begun != "wamkit"):
        off = statistics_differ(source, own)
        yield "(statistics)", f"{'ok' if off < STATISTICS else 'differ'}: {off:.1e}"
    job = {"source": source, "other": other, "own": own, "out": home}
    job["added"] = stored(home / "added.npz", added, like)
    found = lerobot.run({**job, "tools": _fit(one, recording)})
    merged, owned = content_of(other), content_of(own)
    for tool, entry in found["tools"].items():
        wrong = [entry["error"]] if "error" in entry else []
        for part, folder in entry.get("made", {}).items():
            wrong += faults(Path(folder), expected(part, before, merged, owned, added))
        yield tool, "; ".join(wrong) or "ok"


def _fit(one: Set, recording: LeRobotFolder) -> list[str]:
    """The tools that are for a data set of this kind."""
    other = {"video": "convert images to video", "image": "encode videos anew"}[one.dtype]
    return [tool for tool in TOOLS if tool != other]


def main(args: Sequence[str] | None = None) -> int:
    """Try, and print a table. The exit code is 1 if a tool failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = sys.executable if find_spec("lerobot") else None
    parser.add_argument("--lerobot", default=os.environ.get("LEROBOT_PYTHON") or here)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=None)
    parser.add_argument("--out", type=Path, help="keep data sets, results and logs here")
    asked = parser.parse_args(args)
    if asked.lerobot is None:
        print(MISSING)
        return 0
    possible = [name for name in SETS if find_spec("metaworld") or not SETS[name].collected]
    table: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory() as place:
        home = (asked.out or Path(place)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        lerobot = LeRobot(asked.lerobot, home)
        for name in asked.sets or possible:
            for tool, result in tried(name, lerobot):
                table.setdefault(tool, {})[name] = result
    print(f"{lerobot.version}\n")
    names = list(dict.fromkeys(name for row in table.values() for name in row))
    print("| tool | " + " | ".join(names) + " |\n|---" * 1 + "|---" * len(names) + "|")
    for tool, row in table.items():
        print(f"| {tool} | " + " | ".join(row.get(name, "") for name in names) + " |")
    return int(
        not all(result.startswith("ok") for row in table.values() for result in row.values())
    )


if __name__ == "__main__":
    sys.exit(main())
