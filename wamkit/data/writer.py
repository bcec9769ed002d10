"""LeRobot folders of version 3, written atomically, or added to."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.durable import (
    as_not_written,
    make_folder,
    recover,
    remove,
    replace_folder,
    sweep,
    temporary_name,
)
from ..files.leftovers import sweep_older
from ..files.locking import lock
from ..files.paths import expand_home, fault_of_name
from . import dataset_info, episode_table, frame_table, parquet, video_writer
from .dataset_info import DATA, VIDEO, limit_of
from .episode_statistics import histogram, image_statistics, sampled_frames, value_statistics
from .instructions import expect_instruction
from .lerobot_format import INFO, OWN, Feature, LeRobotFolder
from .linking import link_tree, put_json, put_table
from .metadata import json_table

EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
NOTES = Path("meta", "wamkit.json")  # LeRobot passes over it


class Writer:
    """Write frames to a data set, which appears in its folder when it is saved.

        with Writer(folder, fps=10, features=features) as writer:
            for ...:
                writer.add_frame({"observation.state": ..., "action": ...})
            writer.add_episode("pick up the cup")

    Leaving the block saves; an error in it leaves the folder as it was.
    """

    def __init__(
        self,
        folder: str | Path,
        fps: float,
        features: Mapping[str, Feature],
        robot_type: str = "unknown",
        *,
        codec: str | None = None,
        data_megabytes: float | None = None,
        video_megabytes: float | None = None,
    ) -> None:
        """`features` without LeRobot's own (timestamp and so on); images are height, width, 3.

        `codec` is av1 if it is not given, files grow to 100 and 200 MB. A data set that is there
        already is added to, as it is encoded and divided. Raises WamkitError if it has other
        features, or the folder holds something else.
        """
        if not 0.001 < fps < 1e6:  # a NaN neither
            raise WamkitError(f"{fps:g} frames a second", "give the rate of the recording as fps")
        self.folder = recover(expand_home(folder).absolute())
        self.fps, self.robot_type, self.codec = fps, robot_type, codec
        self.features = {name: _is_supported(name, feature) for name, feature in features.items()}
        limits = {
            "data_files_size_in_mb": data_megabytes,
            "video_files_size_in_mb": video_megabytes,
        }
        self._limits = {name: value for name, value in limits.items() if value is not None}
        if not all(0 < value < math.inf for value in self._limits.values()):
            raise WamkitError(
                f"files of {data_megabytes} and {video_megabytes} megabytes", "give positive sizes"
            )
        self._hold = ExitStack()
        self._begin()

    def _begin(self) -> None:
        """Take up the data set as it is in its folder, under a hidden name in the same folder."""
        with ExitStack() as stack, as_not_written(self.folder):
            stack.enter_context(lock(self.folder, "write another data set", outside=True))
            self._begin_new()
            self._hold = stack.pop_all()

    def _begin_new(self) -> None:
        old = self._old()
        self._codecs = {
            name: self._codec(name, old)
            for name, feature in self.features.items()
            if feature.dtype == "video"
        }
        self._info = dataset_info.new_info(self.fps, self.features, self.robot_type, self._codecs)
        self.notes: dict[str, Any] = {} if old is None else notes(old.folder)
        """What else is to be remembered of the data set, as plain data."""
        sweep(self.folder.parent)
        sweep_older(self.folder)
        make_folder(self.folder.parent)
        self._place = temporary_name(self.folder)
        self._films: dict[str, video_writer.VideoWriter] = {}
        self._table: Any = None
        try:
            self._take_up(old)
        except (OSError, WamkitError):
            self.discard()
            raise

    def _take_up(self, old: LeRobotFolder | None) -> None:
        """Copy the existing data set into the temporary folder."""
        self._place.mkdir()
        self._tasks: dict[int, str] = {}
        self._episodes = self._frames = 0
        if old is not None:
            link_tree(old.folder, self._place)
            self._info = old.info
            self._tasks = dict(old.tasks)
            self._episodes = max((e.index + 1 for e in old.episodes), default=0)
            self._frames = sum(episode.length for episode in old.episodes)
        self._info = {**self._info, **self._limits}
        self._rows: list[dict[str, Any]] = []  # frames of the episode that is being recorded
        self._seen: dict[str, list[Any]] = {}  # camera -> histograms of its frames
        self._starts: dict[str, float] = {}  # camera -> seconds at which that episode began
        self._meta: list[dict[str, Any]] = []
        self._files: dict[str, int] = {}  # data, or a camera -> number of its open file

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        try:
            if kind is None and (self._rows or self._meta or not self._episodes):
                self.save()
        finally:
            self.discard()

    def add_frame(self, values: Mapping[str, Any]) -> None:
        """One frame: a number or an array for every feature, images uint8 [height, width, 3].

        Raises WamkitError if one is missing, unknown, of another shape, or not finite.
        """
        if set(values) != set(self.features):
            missing, extra = set(self.features) - set(values), set(values) - set(self.features)
            raise WamkitError(
                f"a frame without {sorted(missing)} and with {sorted(extra)} besides",
                f"give {', '.join(self.features)}",
            )
        row = {name: _to_array(name, self.features[name], value) for name, value in values.items()}
        seen = {n: histogram(row[n]) for n, f in self.features.items() if f.is_image}
        with as_not_written(self.folder):
            for name, feature in self.features.items():
                if feature.dtype == "video":
                    if name not in self._films:
                        self._films[name] = self._film(name, feature)
                    shot = self._films[name]
                    self._starts.setdefault(name, shot.seconds)
                    shot.add(row.pop(name))
        self._rows.append(row)
        for name, counts in seen.items():
            self._seen.setdefault(name, []).append(counts)

    def add_episode(self, task: str, frames: Iterable[Mapping[str, Any]] = ()) -> None:
        """End an episode: `frames`, after those added since the last one, with its instruction."""
        for frame in frames:
            self.add_frame(frame)
        try:
            expect_instruction(task, "the task")
        except ValueError as error:
            raise WamkitError(
                f"an episode without an instruction: {error}", "say what its frames show"
            ) from None
        if not self._rows:
            raise WamkitError(f"an episode of 0 frames, {task!r}", "add frames first")
        length = len(self._rows)
        number = self._number(task)
        own = {
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, self._episodes),
            "index": np.arange(self._frames, self._frames + length),
            "task_index": np.full(length, number),
        }
        stored = {k: f for k, f in self.features.items() if f.dtype != "video"}
        table = frame_table.frames(stored, self._rows, own)
        with as_not_written(self.folder):
            if self._table is None:
                file = self._next("data", DATA)
                self._table = parquet.import_pyarrow().parquet.ParquetWriter(
                    file, table.schema, compression="snappy"
                )
            self._table.write_table(table, row_group_size=length)  # a row group for each episode
            self._meta.append(self._about(task, length) | self._statistics(own))
            self._episodes, self._frames, self._rows = self._episodes + 1, self._frames + length, []
            self._roll()

    def _number(self, task: str) -> int:
        """The index of an instruction, a new one if it has none."""
        new = max(self._tasks, default=-1) + 1
        number = next((index for index, known in self._tasks.items() if known == task), new)
        self._tasks[number] = task
        return number

    def save(self) -> Path:
        """Move the data set to its folder atomically.

        Raises WamkitError if an episode has not been ended, or the file system refuses; what was
        there is then as it was.
        """
        if self._rows or not self._episodes:
            raise WamkitError(
                f"{len(self._rows)} frames belong to no episode yet; there are {self._episodes} "
                "episodes",
                "call add_episode with their instruction",
            )
        try:
            with as_not_written(self.folder):
                self._finish()
        finally:
            self.discard()
        return self.folder

    def _finish(self) -> None:
        self._close()
        if self._meta:  # of the episodes that are new
            self._put_metadata()
        if self.notes:
            put_json(self._place / NOTES, self.notes)
        replace_folder(self._place, self.folder)

    def _put_metadata(self) -> None:
        """Write meta/, with the new episodes after the existing ones."""
        old = episode_table.table_files(self._place)
        if old:
            episode_table.add_missing_columns(self._place, LeRobotFolder(self.folder))
        full = bool(old) and old[-1].stat().st_size >= self._megabytes("data") * 1e6
        file = old[-1] if old and not full else self._next("meta/episodes", EPISODES)
        rows = [row | episode_table.file_columns(file) for row in self._meta]
        episode_table.append_rows(rows, file, old[0] if old else None)
        put_table(frame_table.tasks(self._tasks), self._place / "meta" / "tasks.parquet")
        counts = (self._episodes, self._frames, len(self._tasks))
        put_json(self._place / INFO, dataset_info.with_totals(self._info, *counts))
        put_json(
            self._place / "meta" / "stats.json", episode_table.merged_statistics(self._place, rows)
        )

    def keep(self) -> None:
        """Save, and continue in new files: saved episodes cannot be lost."""
        self.save()
        self._begin()

    def discard(self) -> None:
        """Discard unsaved episodes."""
        if self._place.exists():
            for shot in self._films.values():
                shot.discard()
            self._films = {}
            with suppress(OSError):  # of a file that goes away
                self._close()
            remove(self._place)
        self._hold.close()

    def _old(self) -> LeRobotFolder | None:
        """The existing data set."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return None
        old = LeRobotFolder(self.folder)
        mine = {k: (f.dtype, f.shape) for k, f in self.features.items()}
        theirs = {k: (f.dtype, f.shape) for k, f in old.features.items() if k not in OWN}
        if mine != theirs or old.fps != self.fps or not old.version.startswith("v3"):
            raise WamkitError(
                f"{self.folder} is a data set of version {old.version} at {old.fps:g} frames a "
                f"second with {', '.join(theirs)}; that differs from the new episodes",
                "write to another folder, or with the same fps, features and shapes",
            )
        dataset_info.expect_places(old.info, self.folder)
        self.robot_type = str(old.info.get("robot_type", self.robot_type))
        return old

    def _codec(self, name: str, old: LeRobotFolder | None) -> str:
        """Codec of the videos of a camera: the requested one, or that of the existing videos."""
        about = old.info["features"][name].get("info") if old is not None else None
        known = about.get("video.codec") if isinstance(about, dict) else None
        codec = str(self.codec or known or "av1")
        if codec not in video_writer.CODECS:
            raise WamkitError(
                f"videos of {name!r} in the codec {codec}, which is not written here",
                f"give codec, one of {', '.join(video_writer.CODECS)}; LeRobot does not merge the "
                "videos of a data set with several codecs",
            )
        return codec

    def _megabytes(self, kind: str) -> float:
        return limit_of(self._info, f"{kind}_files_size_in_mb")

    def _file_place(self, number: int) -> dict[str, int]:
        chunk, file = divmod(number, max(1, int(limit_of(self._info, "chunks_size"))))
        return {"chunk_index": chunk, "file_index": file}

    def _next(self, key: str, template: str, **values: str) -> Path:
        """A file name that is still free, in a folder that exists."""
        number = self._files.get(key, -1) + 1
        while os.path.lexists(  # a link to nothing is no free name
            file := self._place / template.format(**self._file_place(number), **values)
        ):
            number += 1
        self._files[key] = number
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _film(self, name: str, feature: Feature) -> video_writer.VideoWriter:
        file = self._next(name, VIDEO, video_key=name)
        return video_writer.VideoWriter(file, self.fps, feature.size, self._codecs[name])

    def _about(self, task: str, length: int) -> dict[str, Any]:
        """The row of an episode in the metadata."""
        row: dict[str, Any] = {"episode_index": self._episodes, "tasks": [task], "length": length}
        row |= {f"data/{k}": v for k, v in self._file_place(self._files["data"]).items()}
        row["dataset_from_index"] = self._frames
        row["dataset_to_index"] = self._frames + length
        for name, shot in self._films.items():
            row |= {f"videos/{name}/{k}": v for k, v in self._file_place(self._files[name]).items()}
            row[f"videos/{name}/from_timestamp"] = self._starts.pop(name)
            row[f"videos/{name}/to_timestamp"] = shot.seconds
        return row

    def _statistics(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """The statistics of the episode that ends, as columns of its row."""
        found = {}
        for name, feature in self.features.items():
            if feature.is_image:
                seen = self._seen.pop(name)
                found[name] = image_statistics(seen[frame] for frame in sampled_frames(len(seen)))
            else:
                found[name] = value_statistics(np.stack([row[name] for row in self._rows]))
        found |= {name: value_statistics(values.reshape(-1, 1)) for name, values in own.items()}
        return episode_table.columns_of(found)

    def _roll(self) -> None:
        """Begin new files where the open ones have grown large."""
        here = self._place / DATA.format(**self._file_place(self._files["data"]))
        if here.stat().st_size >= self._megabytes("data") * 1e6:
            self._table.close()
            self._table = None
        for name, shot in list(self._films.items()):
            if shot.bytes >= self._megabytes("video") * 1e6:
                self._films.pop(name).close()

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
        self._table = None
        while self._films:  # one that fails is not closed again
            self._films.popitem()[1].close()


def notes(folder: Path) -> dict[str, Any]:
    """`Writer.notes` of a data set; empty if it has none. Raises WamkitError if it is damaged."""
    file = folder / NOTES
    if not file.is_file():
        return {}
    try:
        return json_table(file)
    except ValueError as error:
        raise WamkitError(f"{file} cannot be read: {error}", "remove it") from None


def _is_supported(name: str, feature: Feature) -> Feature:
    images = feature.is_image and len(feature.shape) == 3 and feature.shape[2] == 3
    try:
        numbers = not feature.is_image and np.dtype(feature.dtype).kind in "iufb"
    except TypeError:
        numbers = False
    if (fault := fault_of_name(name)) is not None:
        raise WamkitError(
            f"the feature {name!r:.80} {fault}, and files are named after features", "rename it"
        )
    if name in OWN or "/" in name or not (images or (numbers and len(feature.shape) == 1)):
        raise WamkitError(
            f"the feature {name!r} of {feature.dtype} {list(feature.shape)} is not written",
            "numbers are of one axis, such as float32 [7]; images are video or image "
            f"[height, width, 3]; {', '.join(OWN)} are added by themselves; LeRobot takes no name "
            "with a /",
        )
    return feature


def _to_array(name: str, feature: Feature, value: Any) -> NDArray[Any]:
    found = np.asarray(value)
    if not feature.is_image:
        found = found.astype(feature.dtype).reshape(found.shape or (1,))
    if found.shape != feature.shape or (feature.is_image and found.dtype != np.uint8):
        raise WamkitError(
            f"{name!r} is {found.dtype} {list(found.shape)} in a frame; expected "
            f"{'uint8' if feature.is_image else feature.dtype} {list(feature.shape)}",
            "change the frame, or the features of the writer",
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise WamkitError(f"{name!r} is not finite in a frame", "check the sensors")
    return found
