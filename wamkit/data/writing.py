"""LeRobot folders of version 3, written whole or not at all, or added to."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import strict_json
from ..durable import hidden, in_words, make_folder, recover, remove, replace_folder, sweep
from ..errors import WamkitError
from ..leftovers import sweep_older
from ..paths import expanded
from . import film, parquet
from .frames import Numbers, Pictures
from .layout import INFO, OWN, Feature, Recording
from .linking import link_tree

CHUNK = 1000  # files in a folder
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
NOTES = Path("meta", "wamkit.json")  # LeRobot passes over it


class Writer:
    """Frames to a data set; what is written appears in its folder when it is saved.

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
        codec: str = "av1",
        data_megabytes: float = 100,
        video_megabytes: float = 200,
    ) -> None:
        """`features` without LeRobot's own (timestamp and so on); pictures are height, width, 3.

        A data set that is there already is added to. Raises WamkitError if it has other features,
        or the folder holds something else.
        """
        if not 0.001 < fps < 1e6:  # a NaN neither
            raise WamkitError(f"{fps:g} frames a second", "give the rate of the recording as fps")
        self.folder = recover(expanded(folder).absolute())
        self.fps, self.robot_type, self.codec = fps, robot_type, codec
        self.features = {name: _supported(name, feature) for name, feature in features.items()}
        self._limits = {"data": data_megabytes, "video": video_megabytes}
        with in_words(self.folder):
            self._begin()

    def _begin(self) -> None:
        """Take up the data set as it is in its folder, under a hidden name in the same folder."""
        old = self._old()
        self.notes: dict[str, Any] = {} if old is None else notes(old.folder)
        """What else is to be remembered of the data set, as plain data."""
        sweep(self.folder.parent)
        sweep_older(self.folder)
        make_folder(self.folder.parent)
        self._place = hidden(self.folder)
        self._films: dict[str, film.Film] = {}
        self._table: Any = None
        try:
            self._take_up(old)
        except OSError:
            self.discard()
            raise

    def _take_up(self, old: Recording | None) -> None:
        """Fill the hidden folder with what is there already."""
        self._place.mkdir()
        self._tasks: dict[str, int] = {}
        self._episodes = self._frames = 0
        if old is not None:
            link_tree(old.folder, self._place)
            self._tasks = {task: index for index, task in old.tasks.items()}
            self._episodes = max((e.index + 1 for e in old.episodes), default=0)
            self._frames = sum(episode.length for episode in old.episodes)
        self._rows: list[dict[str, Any]] = []  # frames of the episode that is being recorded
        self._starts: dict[str, float] = {}  # camera -> seconds at which that episode began
        self._meta: list[dict[str, Any]] = []
        self._files: dict[str, int] = {}  # data, or a camera -> number of its open file

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and (self._rows or self._meta or not self._episodes):
                self.save()
        finally:
            self.discard()

    def add_frame(self, values: Mapping[str, Any]) -> None:
        """One frame: a number or an array for every feature, pictures uint8 [height, width, 3].

        Raises WamkitError if one is missing, unknown, of another shape, or not finite.
        """
        if set(values) != set(self.features):
            missing, extra = set(self.features) - set(values), set(values) - set(self.features)
            raise WamkitError(
                f"a frame without {sorted(missing)} and with {sorted(extra)} besides",
                f"give {', '.join(self.features)}",
            )
        row = {name: _value(name, self.features[name], value) for name, value in values.items()}
        with in_words(self.folder):
            for name, feature in self.features.items():
                if feature.dtype == "video":
                    if name not in self._films:
                        self._films[name] = self._film(name, feature)
                    shot = self._films[name]
                    self._starts.setdefault(name, shot.seconds)
                    shot.add(row.pop(name))
        self._rows.append(row)

    def add_episode(self, task: str, frames: Iterable[Mapping[str, Any]] = ()) -> None:
        """End an episode: `frames`, after those added since the last one, with its instruction."""
        for frame in frames:
            self.add_frame(frame)
        if not self._rows or not task.strip():
            raise WamkitError(
                f"an episode of {len(self._rows)} frames with the instruction {task!r}",
                "add frames first, and say what they show",
            )
        length = len(self._rows)
        number = self._tasks.setdefault(task, len(self._tasks))
        own = {
            "timestamp": (np.arange(length) / self.fps).astype(np.float32),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, self._episodes),
            "index": np.arange(self._frames, self._frames + length),
            "task_index": np.full(length, number),
        }
        stored = {k: f for k, f in self.features.items() if f.dtype != "video"}
        table = _table(stored, self._rows, own)
        with in_words(self.folder):
            if self._table is None:
                file = self._next("data", DATA)
                self._table = parquet.arrow().parquet.ParquetWriter(
                    file, table.schema, compression="snappy"
                )
            self._table.write_table(table, row_group_size=length)  # a row group for each episode
            self._meta.append(self._about(task, length))
            self._episodes, self._frames, self._rows = self._episodes + 1, self._frames + length, []
            self._roll()

    def save(self) -> Path:
        """Put the data set in its place, at one stroke.

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
            with in_words(self.folder):
                self._finish()
        finally:
            self.discard()
        return self.folder

    def _finish(self) -> None:
        self._close()
        if self._meta:  # of the episodes that are new
            schema = _schema_of_episodes(list(self._meta[0]), parquet.arrow())
            rows = parquet.arrow().Table.from_pylist(self._meta, schema=schema)
            _put(rows, self._next("meta/episodes", EPISODES))
        _put(_tasks(self._tasks, parquet.arrow()), self._place / "meta" / "tasks.parquet")
        _text(self._place / INFO, self._info())
        _text(self._place / "meta" / "stats.json", _stats(Recording(self._place)))
        if self.notes:
            _text(self._place / NOTES, self.notes)
        replace_folder(self._place, self.folder)

    def keep(self) -> None:
        """Save, and go on in new files: from here on nothing of it can be lost."""
        self.save()
        with in_words(self.folder):
            self._begin()

    def discard(self) -> None:
        """Forget what has not been saved."""
        if self._place.exists():
            for shot in self._films.values():
                shot.discard()
            self._films = {}
            with suppress(OSError):  # of a file that goes away
                self._close()
            remove(self._place)

    def _old(self) -> Recording | None:
        """The data set that is there already."""
        if not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir())):
            return None
        old = Recording(self.folder)
        mine = {k: (f.dtype, f.shape) for k, f in self.features.items()}
        theirs = {k: (f.dtype, f.shape) for k, f in old.features.items() if k not in OWN}
        if mine != theirs or old.fps != self.fps or not old.version.startswith("v3"):
            raise WamkitError(
                f"{self.folder} is a data set of version {old.version} at {old.fps:g} frames a "
                f"second with {', '.join(theirs)}; not what is to be added",
                "write to another folder, or with the same fps, features and shapes",
            )
        self.robot_type = str(old.info.get("robot_type", self.robot_type))
        return old

    def _next(self, key: str, template: str, **values: str) -> Path:
        """A file name that is still free, in a folder that exists."""
        number = self._files.get(key, -1) + 1
        while (file := self._place / template.format(**_numbered(number), **values)).exists():
            number += 1
        self._files[key] = number
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _film(self, name: str, feature: Feature) -> film.Film:
        file = self._next(name, VIDEO, video_key=name)
        return film.Film(file, self.fps, feature.size, self.codec)

    def _about(self, task: str, length: int) -> dict[str, Any]:
        """The row of an episode in the metadata."""
        row: dict[str, Any] = {
            "episode_index": self._episodes,
            "tasks": [task],
            "length": length,
            "dataset_from_index": self._frames,
            "dataset_to_index": self._frames + length,
        }
        row |= {f"data/{k}": v for k, v in _numbered(self._files["data"]).items()}
        for name, shot in self._films.items():
            row |= {f"videos/{name}/{k}": v for k, v in _numbered(self._files[name]).items()}
            row[f"videos/{name}/from_timestamp"] = self._starts.pop(name)
            row[f"videos/{name}/to_timestamp"] = shot.seconds
        return row

    def _roll(self) -> None:
        """Begin new files where the open ones have grown large."""
        here = self._place / DATA.format(**_numbered(self._files["data"]))
        if here.stat().st_size >= self._limits["data"] * 1e6:
            self._table.close()
            self._table = None
        for name, shot in list(self._films.items()):
            if shot.bytes >= self._limits["video"] * 1e6:
                self._films.pop(name).close()

    def _close(self) -> None:
        if self._table is not None:
            self._table.close()
        self._table = None
        while self._films:  # one that fails is not closed again
            self._films.popitem()[1].close()

    def _info(self) -> dict[str, Any]:
        kinds = {"timestamp": "float32"}
        features: dict[str, Any] = {}
        for name, feature in self.features.items():
            features[name] = {"dtype": feature.dtype, "shape": list(feature.shape)}
            features[name]["names"] = feature.names
            if feature.is_picture:
                features[name]["names"] = ["height", "width", "channels"]
            if feature.dtype == "video":
                features[name]["info"] = film.about(feature.size, self.fps, self.codec)
        for name in OWN:
            features[name] = {"dtype": kinds.get(name, "int64"), "shape": [1], "names": None}
        films = any(feature.dtype == "video" for feature in self.features.values())
        return {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": self._episodes,
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": self._limits["data"],
            "video_files_size_in_mb": self._limits["video"],
            "fps": int(self.fps) if float(self.fps).is_integer() else self.fps,
            "splits": {"train": f"0:{self._episodes}"},
            "data_path": DATA,
            "video_path": VIDEO if films else None,
            "features": features,
        }


def notes(folder: Path) -> dict[str, Any]:
    """`Writer.notes` of a data set; empty if it has none. Raises WamkitError if it is damaged."""
    file = folder / NOTES
    try:
        found: dict[str, Any] = strict_json.loads(file.read_text()) if file.is_file() else {}
    except ValueError as error:
        raise WamkitError(f"{file} cannot be read: {error}", "remove it") from None
    return found


def _supported(name: str, feature: Feature) -> Feature:
    pictures = feature.is_picture and len(feature.shape) == 3 and feature.shape[2] == 3
    try:
        numbers = not feature.is_picture and np.dtype(feature.dtype).kind in "iufb"
    except TypeError:
        numbers = False
    if name in OWN or not (pictures or (numbers and len(feature.shape) == 1)):
        raise WamkitError(
            f"the feature {name!r} of {feature.dtype} {list(feature.shape)} is not written",
            "numbers are of one axis, such as float32 [7]; pictures are video or image "
            f"[height, width, 3]; {', '.join(OWN)} are added by themselves",
        )
    return feature


def _value(name: str, feature: Feature, value: Any) -> NDArray[Any]:
    found = np.asarray(value)
    if not feature.is_picture:
        found = found.astype(feature.dtype).reshape(found.shape or (1,))
    if found.shape != feature.shape or (feature.is_picture and found.dtype != np.uint8):
        raise WamkitError(
            f"{name!r} is {found.dtype} {list(found.shape)} in a frame; expected "
            f"{'uint8' if feature.is_picture else feature.dtype} {list(feature.shape)}",
            "change the frame, or the features of the writer",
        )
    if found.dtype.kind == "f" and not np.isfinite(found).all():
        raise WamkitError(f"{name!r} is not finite in a frame", "check the sensors")
    return found


def _table(
    features: Mapping[str, Feature], rows: list[dict[str, Any]], own: Mapping[str, Any]
) -> Any:
    arrow = parquet.arrow()
    columns: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.dtype == "image":
            cells = [{"bytes": _png(row[name]), "path": None} for row in rows]
            kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
            columns[name] = arrow.array(cells, kind)
            continue
        flat = arrow.array(np.concatenate([row[name] for row in rows]))
        size = feature.shape[0]
        columns[name] = flat if size == 1 else arrow.FixedSizeListArray.from_arrays(flat, size)
    return arrow.table(columns | {name: arrow.array(values) for name, values in own.items()})


def _png(picture: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def _numbered(number: int) -> dict[str, int]:
    return {"chunk_index": number // CHUNK, "file_index": number % CHUNK}


def _schema_of_episodes(names: list[str], arrow: Any) -> Any:
    kinds = {"tasks": arrow.list_(arrow.string())}
    return arrow.schema(
        [(n, arrow.float64() if "timestamp" in n else kinds.get(n, arrow.int64())) for n in names]
    )


def _tasks(tasks: Mapping[str, int], arrow: Any) -> Any:
    """A table that pandas reads with the instruction as its index, as LeRobot expects."""
    about = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": stored}
            | {"metadata": None}
            for name, field, kind, stored in (
                ("task_index", "task_index", "int64", "int64"),
                (None, "__index_level_0__", "unicode", "object"),
            )
        ],
        "pandas_version": "2.0.0",
    }
    columns = {
        "task_index": arrow.array(list(tasks.values()), arrow.int64()),
        "__index_level_0__": arrow.array(list(tasks), arrow.string()),
    }
    return arrow.table(columns).replace_schema_metadata(
        {b"pandas": strict_json.dumps(about).encode()}
    )


def _put(table: Any, file: Path) -> None:
    """A parquet file under a new inode: the old one may have a second name elsewhere."""
    file.unlink(missing_ok=True)
    parquet.arrow().parquet.write_table(table, file)


def _text(file: Path, data: Any) -> None:
    file.unlink(missing_ok=True)
    file.write_text(strict_json.dumps(data, indent=4) + "\n")


def _stats(recording: Recording) -> dict[str, Any]:
    """LeRobot's meta/stats.json: of all frames, and of at most 100 pictures of each camera."""
    names = [name for name, feature in recording.features.items() if not feature.is_picture]
    numbers = Numbers(recording, recording.episodes, names)
    found = {name: _rows(numbers[name].astype(np.float64)) for name in names}
    total = int(numbers.starts[-1])
    sample = np.unique(np.linspace(0, total - 1, min(total, 100)).round().astype(int))
    pictures = Pictures(recording)
    for name in recording.cameras:
        seen = []
        for place, episode in enumerate(recording.episodes):
            first, after = numbers.starts[place : place + 2]
            mine = sample[(sample >= first) & (sample < after)] - first
            if len(mine):
                shown = pictures.at(episode, name, mine.tolist())
                seen.append(shown.reshape(-1, 3) / 255)
        rows = _rows(np.concatenate(seen))
        found[name] = {k: v if k == "count" else [[[x]] for x in v] for k, v in rows.items()}
        found[name]["count"] = [len(sample)]
    return found


def _rows(values: NDArray[np.float64]) -> dict[str, list[Any]]:
    rows = {"min": values.min(0), "max": values.max(0), "mean": values.mean(0)}
    rows["std"] = values.std(0)
    for percent in (1, 10, 50, 90, 99):
        rows[f"q{percent:02d}"] = np.quantile(values, percent / 100, axis=0)
    return {name: row.tolist() for name, row in rows.items()} | {"count": [len(values)]}
