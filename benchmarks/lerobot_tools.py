"""LeRobot's own tools on data sets that wamkit wrote, and what wamkit reads of their results.

    python benchmarks/lerobot_tools.py [--lerobot PYTHON] [--sets NAME ...] [--tools NAME ...]

PYTHON is an interpreter in which LeRobot is installed (`pip install 'lerobot[dataset]'` in an
environment of its own; it needs Python 3.12), by default $WAMKIT_LEROBOT_PYTHON, or this one. Ends
without an error where there is none.

Every result is checked as `wamkit data check --decode` does, read as training samples of
examples/toy.toml, and compared with what the data set held before: instructions and numbers must be
equal, images within CLOSE. The last column is the largest difference between the statistics of each
episode in wamkit's files and in LeRobot's own, for the same frames, as a share of their range.
"""

from __future__ import annotations

import argparse
import json
import os
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

from wamkit.data import Feature, Recording, Samples, Writer, check, parquet
from wamkit.data.frames import Numbers, Pictures
from wamkit.spec import override, parse, read

HERE = Path(__file__).parent
FPS, SIZE, ROBOT = 10, (48, 64), "arm"
CLOSE = 8.0  # of 255: the mean difference of an image that was encoded once more
CAMERA, STATE = "observation.images.front", "observation.state"
LENGTHS = (12, 9, 130, 11)  # frames; LeRobot takes a sample of the images of a long episode
COUNTED = ("index", "episode_index", "task_index")  # which tools number anew
MISSING = "LeRobot is not installed here: nothing to try"
TOOLS = (
    "load",
    "add",
    "delete",
    "split",
    "merge",
    "remove feature",
    "add feature",
    "modify tasks",
    "recompute statistics",
    "images to video",
    "encode anew",
)


@dataclass(frozen=True)
class Episode:
    """What one episode holds."""

    task: str
    columns: Mapping[str, NDArray[Any]]  # name -> [frames, size]
    images: NDArray[np.uint8]  # [frames, height, width, 3]


Content = tuple[Episode, ...]


def made(first: int, lengths: Sequence[int]) -> Content:
    """Episodes numbered from `first` on, in which every frame is another."""
    return tuple(_episode(first + place, length) for place, length in enumerate(lengths))


def _episode(number: int, length: int) -> Episode:
    t = np.arange(length, dtype=np.float32)[:, None]
    random = np.random.default_rng(number)
    columns = {
        STATE: number + random.normal(size=(length, 2)).astype(np.float32),
        "action": t / 10 + np.arange(4, dtype=np.float32),
        "reward": random.random((length, 1)).astype(np.float32),
        "next.success": t == length - 1,
    }
    height, width = SIZE
    rows, across = np.mgrid[:height, :width]
    images = np.empty((length, height, width, 3), np.uint8)
    for channel, base in enumerate((rows * 2, across, rows + across)):
        images[..., channel] = (base + 30 * channel + 7 * number + t[..., None]) % 256 // 2 + 40
    return Episode(f"task {number % 3}", columns, images)


def features(dtype: str) -> dict[str, Feature]:
    """The features of `made`, with images of this dtype."""
    return {
        CAMERA: Feature(dtype, (*SIZE, 3), ["height", "width", "channels"]),
        STATE: Feature("float32", (2,), ["x", "y"]),
        "action": Feature("float32", (4,)),
        "reward": Feature("float32", (1,)),
        "next.success": Feature("bool", (1,)),
    }


def write(
    folder: Path, content: Content, dtype: str, *, keep: bool = False, **options: Any
) -> None:
    """A data set by wamkit's writer, or episodes added to it. `keep`: save after each episode."""
    with Writer(folder, FPS, features(dtype), ROBOT, **options) as writer:
        for episode in content:
            for t in range(len(episode.images)):
                frame = {name: column[t] for name, column in episode.columns.items()}
                writer.add_frame(frame | {CAMERA: episode.images[t]})
            writer.add_episode(episode.task)
            if keep:
                writer.keep()


def stored(file: Path, content: Content) -> None:
    """The same for LeRobot's writer: an npz file as `lerobot_side.py` reads it."""
    arrays: dict[str, Any] = {"episodes": len(content)}
    for place, episode in enumerate(content):
        arrays |= {f"{place}/{name}": column for name, column in episode.columns.items()}
        arrays |= {f"{place}/task": episode.task, f"{place}/{CAMERA}": episode.images}
    np.savez(file, **arrays)


def content_of(folder: Path) -> Content:
    """What wamkit reads of a data set."""
    recording = Recording(folder)
    names = [n for n, f in recording.features.items() if not f.is_picture]
    numbers, images = Numbers(recording, recording.episodes, names), Pictures(recording)
    found = []
    for place, episode in enumerate(recording.episodes):
        columns = {name: numbers.of(place, name) for name in names}
        (task,) = {recording.tasks[int(number)] for number in columns["task_index"][:, 0]}
        assert not episode.tasks or episode.tasks == (task,)
        shown = images.at(episode, CAMERA, list(range(episode.length)))
        found.append(Episode(task, columns, shown))
    return tuple(found)


@dataclass(frozen=True)
class Set:
    """A data set before the tools: its images, and who wrote its episodes."""

    dtype: str = "video"
    codec: str = "av1"
    begun_by_lerobot: bool = False
    keep: bool = False

    def write(self, folder: Path, content: Content, lerobot: LeRobot) -> None:
        """All episodes, or all but the first two if those are of LeRobot's writer."""
        begun = 2 if self.begun_by_lerobot else 0
        if begun:
            lerobot.record(folder, content[:begun], self.dtype)
        options: dict[str, Any] = {} if begun else {"codec": self.codec}
        write(folder, content[begun:], self.dtype, keep=self.keep, **options)


SETS = {
    "video, av1": Set(),
    "video, h264": Set(codec="h264"),
    "images": Set("image"),
    "video, saved after each episode": Set(keep=True),
    "video, added to LeRobot's": Set(begun_by_lerobot=True),
    "images, added to LeRobot's": Set("image", begun_by_lerobot=True),
}


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
        with log.open("w") as opened:
            done = subprocess.run(
                [self.python, str(HERE / "lerobot_side.py"), str(file)],
                env=os.environ | places,
                stdout=subprocess.PIPE,
                stderr=opened,
                text=True,
                check=True,
            )
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        self.version = f"LeRobot {found['lerobot']}, Python {found['python']}"
        return found

    def record(self, folder: Path, content: Content, dtype: str) -> None:
        """A data set by LeRobot's own writer."""
        frames = self.home / f"{folder.name}.npz"
        stored(frames, content)
        typed = {
            name: {"dtype": one.dtype, "shape": one.shape, "names": one.names}
            for name, one in features(dtype).items()
        }
        about = {"features": typed, "frames": frames, "out": folder, "fps": FPS, "robot": ROBOT}
        self.run({"record": [about]})


def expected(part: str, source: Content, other: Content, added: Content) -> Content:
    """What a tool should have made, by the name of the part in `lerobot_side.py`."""
    if part == "no reward":
        return tuple(replace(e, columns=_without(e.columns, "reward")) for e in source)
    if part == "other task":
        return (replace(source[0], task="an instruction of its own"), *source[1:])
    parts = {
        "all": source,
        "extra": source,
        "added": (*source, *added),
        "without 1": (source[0], *source[2:]),
        "first": source[:2],
        "rest": source[2:],
        "merged": (*source, *other),
    }
    return parts[part]


def _without(columns: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: column for key, column in columns.items() if key != name}


def faults(folder: Path, wanted: Content) -> Iterator[str]:
    """Everything in which a data set is not what is wanted, or not what training can use."""
    for finding in check(folder, decode=True):
        yield f"{finding.file}: {finding.why}"
    found = content_of(folder)
    if len(found) != len(wanted):
        yield f"{len(found)} episodes for {len(wanted)}"
    for place, (mine, right) in enumerate(zip(found, wanted, strict=False)):
        if mine.task != right.task:
            yield f"episode {place}: task {mine.task!r} for {right.task!r}"
        for name, column in right.columns.items():
            if name not in COUNTED and not np.array_equal(
                mine.columns.get(name, np.empty(0)), column
            ):
                yield f"episode {place}: {name} is not what it was"
        if mine.images.shape != right.images.shape:
            yield f"episode {place}: {len(mine.images)} images for {len(right.images)}"
            continue
        off = np.abs(mine.images.astype(float) - right.images).mean((1, 2, 3))
        if off.max() > CLOSE:
            yield f"episode {place}: image {off.argmax()} is {off.max():.1f} of 255 off"
    frames = sum(len(episode.images) for episode in found)
    try:
        samples = Samples(folder, spec())
        prompts = [samples[place]["prompt"] for place in (0, frames - 1)]
        if len(samples) != frames or prompts != [found[0].task, found[-1].task]:
            yield f"{len(samples)} training samples, with {prompts}"
    except Exception as error:
        yield f"no training samples: {error}"


def spec() -> Any:
    """A policy that can learn from these data sets."""
    raw = override(dict(read(HERE.parent / "examples" / "toy.toml")), [f"actions.hertz={FPS}"])
    return parse(raw)


def statistics_differ(mine: Path, theirs: Path) -> float:
    """The largest difference between statistics of episodes, as a share of the feature's range."""
    worst = 0.0
    pairs = zip(_episode_rows(mine), _episode_rows(theirs), strict=True)
    for one, other in pairs:
        names = {name for name in other if name.startswith("stats/")}
        if names - one.keys():
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


def tried(name: str, tools: Sequence[str], lerobot: LeRobot) -> Iterator[tuple[str, str, str]]:
    """tool, data set, what came of it."""
    home = lerobot.home / name.replace(", ", "_").replace(" ", "_").replace("'", "")
    source, other, own = home / "source", home / "other", home / "lerobots"
    home.mkdir()
    one = SETS[name]
    content, second, added = made(0, LENGTHS), made(4, (10, 8)), made(6, (7, 9))
    one.write(source, content, lerobot)
    write(other, second, one.dtype, codec=one.codec)
    stored(home / "frames.npz", added)
    job = {"source": source, "other": other, "out": home, "tools": tools}
    found = lerobot.run(job)
    before, merged = content_of(source), content_of(other)
    yield "(written)", name, "; ".join(faults(source, content)) or "ok"
    lerobot.record(own, content, one.dtype)
    yield "(statistics)", name, f"{statistics_differ(source, own):.1e}"
    for tool, entry in found["tools"].items():
        wrong = [entry["error"]] if "error" in entry else []
        for part, folder in entry.get("made", {}).items():
            wrong += faults(Path(folder), expected(part, before, merged, added))
        yield tool, name, "; ".join(wrong) or "ok"


def main(words: Sequence[str] | None = None) -> int:
    """Try, and print a table. The exit code is 1 if a tool failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    here = sys.executable if find_spec("lerobot") else None
    parser.add_argument("--lerobot", default=os.environ.get("WAMKIT_LEROBOT_PYTHON") or here)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--out", type=Path, help="keep data sets, results and logs here")
    asked = parser.parse_args(words)
    if asked.lerobot is None:
        print(MISSING)
        return 0
    with tempfile.TemporaryDirectory() as place:
        home = asked.out or Path(place)
        home.mkdir(parents=True, exist_ok=True)
        lerobot = LeRobot(asked.lerobot, home.absolute())
        rows = [row for name in asked.sets for row in tried(name, _fit(name, asked.tools), lerobot)]
    print(f"{lerobot.version}\n\n| tool | data set | result |\n|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    return int(any(result != "ok" for tool, _, result in rows if tool != "(statistics)"))


def _fit(name: str, tools: Sequence[str]) -> list[str]:
    """The tools that are for data sets of this kind."""
    other = {"video": "images to video", "image": "encode anew"}[SETS[name].dtype]
    return [tool for tool in tools if tool != other]


if __name__ == "__main__":
    sys.exit(main())
