"""Metadata of a LeRobot folder of version 3 or 2: features, episodes, tasks, files.

Version 3 keeps many episodes in a parquet and in an mp4 file, version 2 one in each. Both become
the same `LeRobotFolder`, which knows for each episode where its rows and its images are. Formats:
`lerobot/datasets` at huggingface/lerobot, codebase versions v2.0, v2.1 and v3.0.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..errors import WamkitError, did_you_mean
from ..files.hub import local_path
from . import metadata
from .findings import CONVERT, DataError, Finding, integer, raise_findings, seconds
from .schema import IMAGES, MOST_FRAMES
from .templates import fill

INFO = Path("meta", "info.json")
OWN = ("timestamp", "frame_index", "episode_index", "index", "task_index")  # in every folder
FRAME_RANGE_KEYS = ("dataset_from_index", "dataset_to_index")
TOLERANCE = 1e-4  # seconds that an image may be off, as in LeRobot


@dataclass(frozen=True)
class Feature:
    """One feature recorded with every frame."""

    dtype: str
    """A number type such as float32, or `video` (an mp4 file), or `image` (within the parquet)."""
    shape: tuple[int, ...]
    """Of one frame; images are height, width, 3 or 3, height, width, see `names`."""
    names: Any = None

    @property
    def labels(self) -> list[str]:
        """A name for each dimension: those of the data set, or indexes."""
        names, size = self.names, math.prod(self.shape)
        if isinstance(names, dict) and len(names) == 1:  # such as {"motors": [...]}
            names = next(iter(names.values()))
        if isinstance(names, list) and len(names) == size:
            return [str(label) for label in names]
        return [str(i) for i in range(size)]

    @property
    def is_image(self) -> bool:
        """True for cameras."""
        return self.dtype in IMAGES

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of an image."""
        first = len(self.shape) == 3 and self.shape[0] in (1, 3) and self.shape[2] not in (1, 3)
        height, width = self.shape[1:] if first else self.shape[:2]
        return height, width


@dataclass(frozen=True)
class Clip:
    """Location of the images of one episode and camera."""

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
    span: tuple[int, ...] = ()  # first and last + 1 of its frames among all, if stored


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
        """Parse pairs such as "front=observation.images.top" or "action=actions".

        Raises WamkitError if a pair has no `=`, or a name is given twice.
        """
        found: dict[str, str] = {}
        for pair in pairs:
            name, equals, key = pair.partition("=")
            if not equals or not name or not key or name in found:
                raise WamkitError(
                    f"{pair!r} maps no column, or maps it twice",
                    "write VIEW=KEY, state=KEY or action=KEY, once for each",
                )
            found[name] = key
        numbers = {name: found.pop(name) for name in ("state", "action") if name in found}
        return Columns(found, **numbers)


class LeRobotFolder:
    """A LeRobot folder on this machine, read from its metadata."""

    def __init__(self, folder: str | Path) -> None:
        """Raises WamkitError if the folder is no data set, or of a version that is not read."""
        self.folder = local_path(folder, "dataset")
        file = self.folder / INFO
        if not file.is_file():
            raise WamkitError(
                f"no data set at {self.folder}: it has no {INFO}", "name a LeRobot folder"
            )
        self.info, faults = metadata.read_info(file)
        if faults:
            raise DataError(faults, str(self.folder))
        self._paths: dict[str, Path] = {}
        self.version = str(self.info["codebase_version"])
        self.fps = float(self.info["fps"])
        self.features = {
            name: Feature(str(raw["dtype"]), tuple(map(int, raw["shape"])), raw.get("names"))
            for name, raw in self.info["features"].items()
        }

    @property
    def cameras(self) -> tuple[str, ...]:
        """Keys of the features that are images."""
        return tuple(name for name, feature in self.features.items() if feature.is_image)

    @property
    def video_keys(self) -> tuple[str, ...]:
        """Keys of the cameras whose images are in mp4 files."""
        return tuple(name for name in self.cameras if self.features[name].dtype == "video")

    @property
    def episodes(self) -> tuple[Episode, ...]:
        """Every episode, in order. Raises WamkitError, with all faults, if one cannot be used."""
        found, faults = self.episodes_and_faults
        raise_findings(faults, f"{self.folder}: the metadata")
        return found

    @cached_property
    def episodes_and_faults(self) -> tuple[tuple[Episode, ...], tuple[Finding, ...]]:
        """The episodes that can be used, in order, and the findings of the others."""
        rows, faults = self._rows()
        found, wrong = metadata.convert_rows(rows, self._episode)
        known: dict[int, Episode] = {}
        place = str(rows[0][0]) if rows else ""
        for episode in found:
            if episode.index in known:
                wrong.append(Finding(place, "is there twice", episode.index, hint=CONVERT))
            known.setdefault(episode.index, episode)
        wrong += self._overlaps(known.values(), place)
        return tuple(known[index] for index in sorted(known)), (*faults, *wrong)

    def _overlaps(self, episodes: Iterable[Episode], place: str) -> Iterator[Finding]:
        """Find episodes whose time ranges in one video file overlap."""
        for name, files in self._episodes_by_file(episodes).items():
            for file, mine in files.items():
                for one, other in pairwise(mine):
                    first, start = one.clips[name].start, other.clips[name].start
                    if start - first < 0.5 * one.length / self.fps:
                        why = f"begins at {start:g} s in {file}, within episode {one.index}"
                        yield Finding(place, why, other.index, hint=CONVERT)

    @property
    def tasks(self) -> dict[int, str]:
        """task_index -> instruction. Raises WamkitError, with all faults, if one is empty."""
        found, faults = self.tasks_and_faults
        raise_findings(faults, f"{self.folder}: the metadata")
        return found

    @cached_property
    def tasks_and_faults(self) -> tuple[dict[int, str], list[Finding]]:
        """task_index -> instruction, and the findings of the others."""
        return metadata.tasks(self.folder, v3=self.version.startswith("v3"))

    def episodes_sharing_video(self, episode: Episode, camera: str) -> tuple[Episode, ...]:
        """The episodes in the same mp4 file, in the order in which they are there."""
        return self._episodes_by_video[camera][episode.clips[camera].file]

    @cached_property
    def _episodes_by_video(self) -> dict[str, dict[Path, tuple[Episode, ...]]]:
        return self._episodes_by_file(self.episodes_and_faults[0])

    def _episodes_by_file(
        self, episodes: Iterable[Episode]
    ) -> dict[str, dict[Path, tuple[Episode, ...]]]:
        """Camera -> mp4 file -> the episodes in it, in the order in which they are there."""
        found: dict[str, dict[Path, list[Episode]]] = {name: {} for name in self.video_keys}
        for episode in episodes:
            for name, clip in episode.clips.items():
                found[name].setdefault(clip.file, []).append(episode)
        return {
            name: {
                file: tuple(sorted(mine, key=lambda e: (e.clips[name].start, e.index)))
                for file, mine in files.items()
            }
            for name, files in found.items()
        }

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
        """Every file with frames or metadata, in a fixed order."""
        kept = [self.folder / INFO]
        for place in ("meta/episodes", "data", "videos", "images"):
            kept += sorted(p for p in (self.folder / place).rglob("*") if p.is_file())
        metadata_files = ("tasks.parquet", "tasks.jsonl", "episodes.jsonl")
        kept += [p for name in metadata_files if (p := self.folder / "meta" / name).is_file()]
        others = self._tables().union(*(files for files in self._episodes_by_video.values())) - set(
            kept
        )
        return kept + sorted(p for p in others if p.is_file())

    def _tables(self) -> set[Path]:
        """The files that hold rows of episodes, wherever the templates of info.json have them."""
        return {episode.data for episode in self.episodes_and_faults[0]}

    def fingerprint(self) -> str:
        """A hash of the data: names and sizes of all files, and the contents of all but videos."""
        total, tables = hashlib.sha256(), self._tables()
        for file in self.files():
            about = f"{file.relative_to(self.folder).as_posix()} {file.stat().st_size}\n"
            total.update(about.encode())
            if file in tables or file.suffix in (".parquet", ".json", ".jsonl"):
                with file.open("rb") as stream:
                    total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def _rows(self) -> tuple[list[tuple[Path, dict[str, Any]]], list[Finding]]:
        """The rows of the episodes as they are written, each with its file."""
        if not self.version.startswith("v3"):
            file = self.folder / "meta" / "episodes.jsonl"
            rows_of_file, faults = metadata.lines(file)
            return [(file, row) for row in rows_of_file], faults
        place = self.folder / "meta" / "episodes"
        files = sorted(place.rglob("*.parquet"))
        if not files:
            why = f"{place} holds no parquet file"
            return [], [Finding(str(place), why, hint="copy the whole data set again")]
        wanted = ["episode_index", "length", "data/chunk_index", "data/file_index"]
        keys = ("chunk_index", "file_index", "from_timestamp")
        wanted += [f"videos/{name}/{key}" for name in self.video_keys for key in keys]
        rows: list[tuple[Path, dict[str, Any]]] = []
        faults = []
        for file in files:
            rows_of_file, wrong = metadata.table(file, wanted, ["tasks", *FRAME_RANGE_KEYS])
            rows += [(file, row) for row in rows_of_file]
            faults += wrong
        return rows, faults

    def _episode(self, row: dict[str, Any]) -> Episode:
        """Parse a row of the metadata. Raises ValueError with a message."""
        index, length = integer(row, "episode_index"), integer(row, "length", 1)
        if length > MOST_FRAMES:
            raise ValueError(f"length is {length:,}, an episode has at most {MOST_FRAMES:,} frames")
        clips = {}
        if self.version.startswith("v3"):
            for name in self.video_keys:
                file = self._path("video_path", video_key=name, **_file(row, f"videos/{name}"))
                clips[name] = Clip(file, seconds(row, f"videos/{name}/from_timestamp"))
            data = self._path("data_path", **_file(row, "data"))
        else:
            size = integer({"chunks_size": 1000} | self.info, "chunks_size", 1)
            place = {"episode_chunk": index // size, "episode_index": index}
            for name in self.video_keys:
                clips[name] = Clip(self._path("video_path", video_key=name, **place))
            data = self._path("data_path", **place)
        span = tuple(integer(row, name) for name in FRAME_RANGE_KEYS if row.get(name) is not None)
        return Episode(index, length, metadata.instructions_of(row), data, clips, span)

    def _path(self, template: str, **values: int | str) -> Path:
        """Fill a path template of info.json; episodes of one file share the path."""
        name = fill(self.info[template], **values)
        return self._paths.setdefault(name, self.folder / name)


def _file(row: Mapping[str, Any], place: str) -> dict[str, int]:
    """Chunk and file index of a file of version 3."""
    return {key: integer(row, f"{place}/{key}") for key in ("chunk_index", "file_index")}
