"""Read a LeRobot folder: columns of values in memory, images at any frame."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.images import open_image
from ..files.paths import resolve_inside
from ..files.pixels import pixels
from . import parquet
from .alignment import EXACT, Alignment, min_tolerance
from .lerobot_format import TOLERANCE, Episode, LeRobotFolder
from .timing import round_up
from .video import Videos

CHECK = "run `wamkit data check` on the folder"
ROOM = 2**28
"""Bytes of decoded images kept by default: 256 MiB."""


def not_finite(values: NDArray[Any]) -> NDArray[np.int64]:
    """Indexes [n, 2], row and column, of values that are NaN, or infinite as float32."""
    if values.dtype.kind != "f":
        return np.empty((0, 2), np.int64)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.argwhere(~np.isfinite(values.astype(np.float32, copy=False)))


def expect_rows(episodes: Sequence[Episode]) -> None:
    """Raises WamkitError if a file of tables has fewer rows than its episodes have frames.

    The lengths in the metadata are not trusted: later steps allocate memory for every frame.
    """
    claimed: dict[Path, int] = {}
    for episode in episodes:
        claimed[episode.data] = claimed.get(episode.data, 0) + episode.length
    for file, frames in claimed.items():
        if (rows := parquet.open_parquet(file).metadata.num_rows) < frames:
            raise WamkitError(
                f"{file} has {rows:,} rows, the metadata says {frames:,} frames in its episodes",
                CHECK,
            )


class ColumnStore:
    """Columns of values of some episodes, concatenated, read once."""

    def __init__(
        self, recording: LeRobotFolder, episodes: Sequence[Episode], columns: Sequence[str]
    ) -> None:
        """Raises WamkitError if a file is missing or damaged, or holds other rows than expected."""
        self.episodes = tuple(episodes)
        self.starts = np.cumsum([0, *(episode.length for episode in episodes)])
        for name in columns:
            if name not in recording.features:
                raise WamkitError(f"{recording.folder} has no feature {name!r}", CHECK)
        self._labels = {name: recording.features[name].labels for name in columns}
        self._columns: dict[str, NDArray[Any]] = {}
        pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
        file: Path | None = None
        for episode in self.episodes:
            if episode.data != file:
                file, table = episode.data, _columns(episode.data, columns)
            mine = np.flatnonzero(table["episode_index"] == episode.index)
            if len(mine) != episode.length or (np.diff(mine) != 1).any():
                raise WamkitError(
                    f"{file} has {len(mine)} rows of episode {episode.index}, the metadata says "
                    f"{episode.length} in one piece",
                    CHECK,
                )
            for name in columns:
                pieces[name].append(table[name][mine])
        for name, parts in pieces.items():
            shape = recording.features[name].shape
            if len(kinds := {part.shape[1:] for part in parts}) > 1:
                shapes = " and ".join(sorted(str(list(kind)) for kind in kinds))
                raise WamkitError(
                    f"{name!r} is of shape {shapes} in different files, the metadata says "
                    f"{list(shape)}",
                    CHECK,
                )
            whole = np.concatenate(parts) if parts else np.empty((0, *shape))
            if (found := prod(whole.shape[1:])) != prod(shape):
                raise WamkitError(
                    f"{name!r} has {found} values a frame, the metadata says {list(shape)}",
                    CHECK,
                )
            self._columns[name] = whole.reshape(len(whole), found)

    def expect_finite(self, columns: Sequence[str]) -> None:
        """Raises WamkitError with the first value that is NaN, or infinite as float32."""
        for name in columns:
            bad = not_finite(self[name])
            if not bad.size:
                continue
            row, place = map(int, bad[0])
            which = int(np.searchsorted(self.starts, row, "right")) - 1
            episode, frame = self.episodes[which], row - int(self.starts[which])
            raise WamkitError(
                f"{episode.data}: {name!r} is {self[name][row, place]} in episode "
                f"{episode.index}, frame {frame}, number {self._labels[name][place]}; "
                f"{len(np.unique(bad[:, 0]))} frames are not finite",
                f"{CHECK}, and leave out those episodes",
            )

    def __getitem__(self, name: str) -> NDArray[Any]:
        """All frames of a column, [frames, size]."""
        return self._columns[name]

    def episode_values(self, place: int, name: str) -> NDArray[Any]:
        """The frames of the episode at index `place` of those read, [length, size]."""
        return self._columns[name][self.starts[place] : self.starts[place + 1]]


def _columns(file: Path, columns: Sequence[str]) -> dict[str, NDArray[Any]]:
    table = parquet.read(file, sorted({*columns, "episode_index"}))
    found = {}
    for name in table.column_names:
        try:
            found[name] = parquet.to_array(table[name])
        except ValueError as error:
            raise WamkitError(f"{file}: {name!r} holds {error}", CHECK) from None
        if found[name].dtype.kind not in "iufb":
            raise WamkitError(f"{file}: {name!r} holds {table[name].type}, no numbers", CHECK)
    return found


class FrameCache:
    """LRU cache of decoded images by episode, camera and frame, limited in bytes."""

    def __init__(self, room: int) -> None:
        self.room, self.held = room, 0
        self._kept: OrderedDict[tuple[int, str, int], NDArray[Any]] = OrderedDict()

    def __reduce__(self) -> tuple[type[FrameCache], tuple[int]]:
        """Unpickle as an empty cache."""
        return FrameCache, (self.room,)

    def get(self, place: tuple[int, str, int]) -> NDArray[Any] | None:
        """Return the image of (episode, camera, frame); None if it is not cached."""
        found = self._kept.get(place)
        if found is not None:
            self._kept.move_to_end(place)
        return found

    def put(self, place: tuple[int, str, int], image: NDArray[Any]) -> None:
        """Cache an image, and evict the oldest ones if the cache is full."""
        if image.nbytes > self.room:
            return
        self._kept[place] = image
        self.held += image.nbytes
        while self.held > self.room:
            self.held -= self._kept.popitem(last=False)[1].nbytes


class FrameReader:
    """Reads images of any camera at any frames of an episode, from videos or parquet files."""

    def __init__(
        self, recording: LeRobotFolder, tolerance: float = TOLERANCE, room: int = ROOM
    ) -> None:
        """`tolerance`: seconds that an image may be off the time of its frame.

        `room`: bytes of decoded images that are kept, in each process that decodes.
        """
        self.recording = recording
        self._cache = FrameCache(room)
        self.tolerance = tolerance
        self._videos = Videos()
        self._alignment = Alignment(recording, tolerance)
        self._groups: OrderedDict[tuple[Path, str, int], Any] = OrderedDict()
        self._owners: dict[Path, list[NDArray[Any]]] = {}  # file -> row group -> episode of a row

    def read(self, episode: Episode, key: str, frames: Sequence[int]) -> NDArray[Any]:
        """[len(frames), height, width, 3] uint8 of the camera `key`. Raises WamkitError.

        Deep ones are [len(frames), height, width, 1] float32, in the recording's own units.
        """
        feature, found = self.recording.features[key], {}
        for frame in frames:
            if (kept := self._cache.get((episode.index, key, frame))) is not None:
                found[frame] = kept
        if missing := sorted({frame for frame in frames if frame not in found}):
            for frame, decoded in zip(
                missing, self._decode(feature.dtype, episode, key, missing), strict=True
            ):
                found[frame] = decoded
                self._cache.put((episode.index, key, frame), decoded)
        if len(shapes := {image.shape for image in found.values()}) > 1:
            raise WamkitError(
                f"{key!r} of episode {episode.index} has images {sorted(shapes)} in frames "
                f"{min(frames)} to {max(frames)}, expected one shape",
                CHECK,
            )
        stacked = np.stack([found[frame] for frame in frames])
        if stacked.shape[1:3] != feature.size:
            raise WamkitError(
                f"{key!r} of episode {episode.index} is {stacked.shape[1]}x{stacked.shape[2]}, the "
                f"metadata says {feature.size[0]}x{feature.size[1]}",
                CHECK,
            )
        return stacked

    def expect_counted(self, episodes: Sequence[Episode]) -> None:
        """Raises WamkitError unless the images of these episodes are matched by index.

        Of episodes that do not begin at time 0 nothing else tells which image is the first.
        """
        for episode in episodes:
            for key in self.recording.video_keys:
                video = self._videos[episode.clips[key].file]
                if not self._alignment.scan_file(video, key, episode).by_index:
                    frames = sum(
                        e.length for e in self.recording.episodes_sharing_video(episode, key)
                    )
                    raise WamkitError(
                        f"{video.file}: the times of episode {episode.index} do not begin at 0, "
                        f"and the video has not an image for each of {frames} frames",
                        "let times begin at 0 in each episode, or make the video again",
                    )

    def _decode(
        self, dtype: str, episode: Episode, key: str, frames: Sequence[int]
    ) -> Sequence[NDArray[Any]]:
        """Images of frames in ascending order, read anew."""
        if dtype != "video":
            return [self._decode_cell_image(episode, key, frame) for frame in frames]
        clip, fps = episode.clips[key], self.recording.fps
        video = self._videos[clip.file]
        frame_times = self._alignment.frame_times(video, key, episode)
        seconds = [clip.start + frame / fps for frame in frames]
        if frame_times is None:
            try:
                return video.at(seconds, min_tolerance(seconds[-1], fps, self.tolerance))
            except WamkitError:
                frame_times = self._alignment.scan_file(video, key, episode)
        known = frame_times.seconds[list(frames)]
        missing = np.flatnonzero(~np.isfinite(known))
        if not missing.size:
            return video.at(known.tolist(), EXACT)
        first = int(missing[0])
        try:
            return video.at(seconds[first:], min_tolerance(seconds[first], fps, self.tolerance))
        except WamkitError as problem:
            off = float(frame_times.error[frames[first]])
            near = f"; the nearest is {off:.4f} s off" if np.isfinite(off) else ""
            hint = f", or allow it: --tolerance {round_up(off)}" if near else ""
            raise WamkitError(f"{problem.what}{near}", f"{CHECK}{hint}") from None

    def _decode_cell_image(self, episode: Episode, key: str, frame: int) -> NDArray[Any]:
        """An image that stands in the parquet as a PNG or JPEG file."""
        group, row = self._locate(episode, frame)
        place = (episode.data, key, group)
        if place not in self._groups:
            self._groups[place] = parquet.read(episode.data, [key], group)[key].combine_chunks()
        self._groups.move_to_end(place)
        while len(self._groups) > 8:
            self._groups.popitem(last=False)
        return decode_cell(self._groups[place][row].as_py(), self.recording.folder, episode, frame)

    def _locate(self, episode: Episode, frame: int) -> tuple[int, int]:
        """Row group of the episode's file, and row in it, that hold a frame."""
        if episode.data not in self._owners:
            about = parquet.open_parquet(episode.data).metadata
            counts = [about.row_group(group).num_rows for group in range(about.num_row_groups)]
            column = parquet.read(episode.data, ["episode_index"])["episode_index"]
            owners = np.split(parquet.to_array(column), np.cumsum(counts)[:-1])
            self._owners[episode.data] = owners
        first = 0
        for group, owner in enumerate(self._owners[episode.data]):
            mine = np.flatnonzero(owner == episode.index)
            if frame < first + len(mine):
                return group, int(mine[frame - first])
            first += len(mine)
        raise WamkitError(f"{episode.data} lacks frame {frame} of episode {episode.index}", CHECK)


def decode_cell(cell: Any, folder: Path, episode: Episode, frame: int) -> NDArray[Any]:
    """A cell of an image column, its bytes or the file it names, as `files.pixels` gives it."""
    place = f"episode {episode.index} at frame {frame}"
    found = f"{episode.data}: no readable image in {place}: it"
    if not isinstance(cell, dict | None):
        raise WamkitError(f"{found} is a {type(cell).__name__}, not bytes and a path", CHECK)
    data, path = (cell or {}).get("bytes"), (cell or {}).get("path")
    if not isinstance(data, bytes | None):
        raise WamkitError(f"{found} is a {type(data).__name__}, not bytes", CHECK)
    if data is None and path is None:
        raise WamkitError(f"{found} is an empty cell", CHECK)
    where = f"{episode.data}: the image of {place}"
    with open_image(resolve_inside(folder, path, where) if data is None else data, found) as image:
        return pixels(image, where)
