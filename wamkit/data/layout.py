"""What a LeRobot folder of version 3 or 2 says about itself: features, episodes, tasks, files.

Version 3 keeps many episodes in a parquet and in an mp4 file, version 2 one in each. Both become
the same `Recording`, which knows for each episode where its rows and its pictures are. Formats:
`lerobot/datasets` at huggingface/lerobot, codebase versions v2.0, v2.1 and v3.0.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import WamkitError, did_you_mean
from ..placeholders import refuse_placeholder
from . import parquet

INFO = Path("meta", "info.json")
PICTURES = ("video", "image")
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # in every folder
TOLERANCE = 1e-4  # seconds that a picture may be off, as in LeRobot


@dataclass(frozen=True)
class Feature:
    """One quantity that is recorded with every frame."""

    dtype: str
    """A number type such as float32, or `video` (an mp4 file), or `image` (within the parquet)."""
    shape: tuple[int, ...]
    """Of one frame; pictures are height, width, 3 or 3, height, width, as `names` tell."""
    names: Any = None

    @property
    def is_picture(self) -> bool:
        """True for cameras."""
        return self.dtype in PICTURES

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a picture."""
        first = len(self.shape) == 3 and self.shape[0] in (1, 3) and self.shape[2] not in (1, 3)
        height, width = self.shape[1:] if first else self.shape[:2]
        return height, width


@dataclass(frozen=True)
class Clip:
    """Where the pictures of one episode and one camera are."""

    file: Path
    start: float = 0.0
    """Seconds in the file at which the episode begins."""


@dataclass(frozen=True)
class Episode:
    """One recorded attempt."""

    index: int
    length: int  # frames
    tasks: tuple[str, ...]
    data: Path  # the parquet file with its rows, perhaps among others
    clips: Mapping[str, Clip] = field(default_factory=dict)  # camera -> its mp4


@dataclass(frozen=True)
class Columns:
    """Which key of a data set is which input of a policy."""

    views: Mapping[str, str] = field(default_factory=dict)
    """View of the spec -> key; those left out are at observation.images.<view>."""
    state: str = "observation.state"
    action: str = "action"

    def view(self, name: str) -> str:
        """The key of a view."""
        return self.views.get(name, f"observation.images.{name}")

    @staticmethod
    def of(pairs: Iterable[str]) -> Columns:
        """From words such as "front=observation.images.top" or "action=actions".

        Raises WamkitError if a word has no `=`, or a name is given twice.
        """
        found: dict[str, str] = {}
        for pair in pairs:
            name, equals, key = pair.partition("=")
            if not equals or not name or not key or name in found:
                raise WamkitError(
                    f"{pair!r} does not say which column is which, or says it twice",
                    "write VIEW=KEY, state=KEY or action=KEY, once for each",
                )
            found[name] = key
        numbers = {name: found.pop(name) for name in ("state", "action") if name in found}
        return Columns(found, **numbers)


class Recording:
    """A LeRobot folder on this machine, known by its metadata."""

    def __init__(self, folder: str | Path) -> None:
        """Raises WamkitError if the folder is no data set, or of a version that is not read."""
        self.folder = Path(folder).expanduser()
        self.info = _info(self.folder)
        self.version = str(self.info["codebase_version"])
        self.fps = float(self.info["fps"])
        self.features = {
            name: Feature(str(raw["dtype"]), tuple(map(int, raw["shape"])), raw.get("names"))
            for name, raw in self.info["features"].items()
        }

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of the features that are pictures."""
        return tuple(name for name, feature in self.features.items() if feature.is_picture)

    @cached_property
    def episodes(self) -> tuple[Episode, ...]:
        """Every episode, in order. Raises WamkitError if the metadata cannot be read."""
        rows = self._rows_of_v3() if self.version.startswith("v3") else self._rows_of_v2()
        return tuple(sorted(rows, key=lambda episode: episode.index))

    @cached_property
    def tasks(self) -> dict[int, str]:
        """task_index -> instruction."""
        if not self.version.startswith("v3"):
            lines = _lines(self.folder / "meta" / "tasks.jsonl")
            return {int(line["task_index"]): str(line["task"]) for line in lines}
        file = self.folder / "meta" / "tasks.parquet"
        found = parquet.rows(file)
        texts = [name for name in (found[0] if found else {}) if name != "task_index"]
        if found and ("task_index" not in found[0] or len(texts) != 1):
            raise WamkitError(
                f"{file} has the columns {', '.join(found[0])}; expected the task and task_index",
                "write or convert the data set again",
            )
        return {int(row["task_index"]): str(row[texts[0]]) for row in found}

    def feature(self, key: str, purpose: str) -> Feature:
        """The feature at `key`. Raises WamkitError with the nearest name if there is none."""
        if key not in self.features:
            names = [name for name in self.features if name not in OWN]
            near = did_you_mean(key, names, f"it has {', '.join(names)}")
            option = f"{purpose}=KEY"
            raise WamkitError(
                f"{self.folder} has no {key!r} for {purpose}", f"{near}; map it with {option}"
            )
        return self.features[key]

    def files(self) -> list[Path]:
        """Every file that holds frames or says where they are, in a fixed order."""
        kept = [self.folder / INFO]
        for place in ("meta/episodes", "data", "videos", "images"):
            kept += sorted(p for p in (self.folder / place).rglob("*") if p.is_file())
        metas = ("tasks.parquet", "tasks.jsonl", "episodes.jsonl")
        return kept + [p for name in metas if (p := self.folder / "meta" / name).is_file()]

    def fingerprint(self) -> str:
        """A hash of the data: names and sizes of all files, and the contents of all but videos."""
        total = hashlib.sha256()
        for file in self.files():
            about = f"{file.relative_to(self.folder).as_posix()} {file.stat().st_size}\n"
            total.update(about.encode())
            if file.suffix in (".parquet", ".json", ".jsonl"):
                with file.open("rb") as opened:
                    total.update(hashlib.file_digest(opened, "sha256").digest())
        return total.hexdigest()

    def _rows_of_v3(self) -> list[Episode]:
        place = self.folder / "meta" / "episodes"
        files = sorted(place.rglob("*.parquet"))
        if not files:
            raise WamkitError(f"{place} holds no parquet file", "copy the whole data set again")
        videos = [name for name in self.cameras if self.features[name].dtype == "video"]
        found = []
        for file in files:
            wanted = ["episode_index", "length", "tasks", "data/chunk_index", "data/file_index"]
            keys = ("chunk_index", "file_index", "from_timestamp")
            wanted += [f"videos/{name}/{key}" for name in videos for key in keys]
            for row in parquet.rows(file, wanted):
                clips = {}
                for name in videos:
                    chunk, number, start = (row[f"videos/{name}/{key}"] for key in keys)
                    path = self._path(
                        "video_path", video_key=name, chunk_index=chunk, file_index=number
                    )
                    clips[name] = Clip(path, float(start))
                data = self._path(
                    "data_path",
                    chunk_index=row["data/chunk_index"],
                    file_index=row["data/file_index"],
                )
                tasks = tuple(map(str, row["tasks"] or ()))
                found.append(Episode(row["episode_index"], row["length"], tasks, data, clips))
        return found

    def _rows_of_v2(self) -> list[Episode]:
        size = int(self.info.get("chunks_size", 1000))
        found = []
        for row in _lines(self.folder / "meta" / "episodes.jsonl"):
            index = int(row["episode_index"])
            place = {"episode_chunk": index // size, "episode_index": index}
            clips = {
                name: Clip(self._path("video_path", video_key=name, **place))
                for name in self.cameras
                if self.features[name].dtype == "video"
            }
            tasks = tuple(map(str, row.get("tasks", ())))
            data = self._path("data_path", **place)
            found.append(Episode(index, int(row["length"]), tasks, data, clips))
        return found

    def _path(self, template: str, **values: Any) -> Path:
        try:
            return self.folder / str(self.info[template]).format(**values)
        except (KeyError, IndexError, ValueError) as error:
            raise WamkitError(
                f"{self.folder / INFO}: {template} is missing or cannot be filled in: {error}",
                "convert the data set with LeRobot's own script",
            ) from None


def _info(folder: Path) -> dict[str, Any]:
    file = folder / INFO
    if not file.is_file():
        raise WamkitError(f"no data set at {folder}: it has no {INFO}", "name a LeRobot folder")
    refuse_placeholder(file)
    try:
        info = json.loads(file.read_text())
        version, _ = str(info["codebase_version"]), float(info["fps"])
        for raw in info["features"].values():
            tuple(map(int, raw["shape"])), str(raw["dtype"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WamkitError(
            f"{file} cannot be read: {type(error).__name__}: {error}",
            "it needs codebase_version, fps, and features with dtype and shape",
        ) from None
    if not version.startswith(("v2.", "v3.")):
        raise WamkitError(
            f"{file} is of version {version}; read are v2.0, v2.1 and v3.0",
            "convert the data set with LeRobot's own script",
        )
    if not float(info["fps"]) > 0:
        raise WamkitError(f"{file}: fps is {info['fps']}", "it is the number of frames a second")
    return dict(info)


def _lines(file: Path) -> list[dict[str, Any]]:
    refuse_placeholder(file)
    try:
        return [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise WamkitError(
            f"{file} cannot be read: {error}", "copy the whole data set again"
        ) from None
