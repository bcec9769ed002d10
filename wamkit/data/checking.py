"""Everything that is wrong with a data set, found before a policy is trained on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..spec import PolicySpec
from . import parquet
from .frames import picture
from .layout import INFO, OWN, TOLERANCE, Columns, Episode, Recording
from .samples import expect
from .video import Video


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and where."""

    file: str
    why: str
    episode: int | None = None
    frame: int | None = None

    def __str__(self) -> str:
        places = (("episode", self.episode), ("frame", self.frame))
        words = [f"{name} {number}" for name, number in places if number is not None]
        return f"{', '.join([self.file, *words])}: {self.why}"


def check(
    folder: str | Path,
    spec: PolicySpec | None = None,
    columns: Columns | None = None,
    *,
    decode: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Finding]:
    """All findings; none means that the data set can be read to its end.

    With a spec also what the policy needs and the data set lacks. `decode` looks at every picture,
    and not only at the index of each video, which takes long. `advance` is told of each episode.
    Raises WamkitError if there is no such folder.
    """
    if not Path(folder).expanduser().is_dir():
        raise WamkitError(f"no folder at {folder}", "name the folder of a LeRobot data set")
    try:
        recording = Recording(folder)
        episodes = recording.episodes
    except WamkitError as problem:
        return [Finding(str(folder), problem.what)]
    found = list(_totals(recording))
    if spec is not None:
        try:
            expect(recording, spec, columns or Columns())
        except WamkitError as problem:
            found.append(Finding(str(INFO), problem.what))
    found += _tasks(recording)
    by_data = _grouped((episode.data, episode) for episode in episodes)
    for file, mine in by_data.items():
        found += _data_file(recording, file, mine, decode)
        advance(len(mine))
    for camera in recording.cameras:
        if recording.features[camera].dtype == "video":
            by_film = _grouped((episode.clips[camera].file, episode) for episode in episodes)
            for file, mine in by_film.items():
                found += _film(recording, camera, file, mine, decode)
                advance(len(mine))
    place = recording.folder
    return [_short(finding, place) for finding in found]


def _short(finding: Finding, folder: Path) -> Finding:
    """The finding with its file seen from the data set's folder."""
    file = finding.file.removeprefix(f"{folder}/")
    why = finding.why.replace(f"{folder}/", "").removeprefix(file).lstrip(": ")
    return Finding(file, why, finding.episode, finding.frame)


def _grouped(pairs: Iterable[tuple[Path, Episode]]) -> dict[Path, list[Episode]]:
    groups: dict[Path, list[Episode]] = {}
    for file, episode in pairs:
        groups.setdefault(file, []).append(episode)
    return groups


def _totals(recording: Recording) -> Iterator[Finding]:
    episodes, file = recording.episodes, str(INFO)
    counted = {
        "total_episodes": len(episodes),
        "total_frames": sum(episode.length for episode in episodes),
    }
    for name, count in counted.items():
        said = recording.info.get(name, count)
        if said != count:
            yield Finding(file, f"{name} is {said}, the episodes' metadata has {count}")
    if [episode.index for episode in episodes] != list(range(len(episodes))):
        yield Finding(file, "the episodes are not numbered from 0 without a gap")
    for name in OWN[:3]:
        if name not in recording.features:
            yield Finding(file, f"there is no feature {name!r}")


def _tasks(recording: Recording) -> Iterator[Finding]:
    try:
        for number, task in recording.tasks.items():
            if not task.strip():
                yield Finding("meta", f"task {number} is an empty instruction")
    except WamkitError as problem:
        yield Finding("meta", problem.what)


def _data_file(
    recording: Recording, file: Path, episodes: list[Episode], decode: bool
) -> Iterator[Finding]:
    """Rows of a parquet file: there, of the right shape, finite, on time."""
    first = episodes[0].index if len(episodes) == 1 else None
    try:
        table = parquet.read(file)
    except WamkitError as problem:
        yield Finding(str(file), problem.what, first)
        return
    columns: dict[str, NDArray[Any]] = {}
    for name, feature in recording.features.items():
        if feature.dtype == "video":
            continue
        if name not in table.column_names:
            yield Finding(str(file), f"there is no column {name!r}")
        elif feature.dtype not in ("image", "string"):
            try:
                columns[name] = parquet.array(table[name])
            except ValueError as error:
                yield Finding(str(file), f"{name!r} has a wrong shape: {error}")
    if "episode_index" not in columns:
        return
    known = {episode.index for episode in episodes}
    for other in sorted(set(columns["episode_index"].tolist()) - known):
        yield Finding(str(file), f"rows of episode {other}, which the metadata does not know")
    for episode in episodes:
        rows = np.flatnonzero(columns["episode_index"] == episode.index)
        if len(rows) != episode.length:
            yield Finding(
                str(file),
                f"{len(rows)} rows, the metadata says {episode.length} frames",
                episode.index,
                min(len(rows), episode.length),
            )
        mine = {name: values[rows] for name, values in columns.items()}
        for frame, why in _numbers(recording, mine):
            yield Finding(str(file), why, episode.index, frame)
        for name, feature in recording.features.items():
            if feature.dtype == "image" and name in table.column_names:
                cells = table[name].combine_chunks()
                looked = range(len(rows)) if decode else range(min(1, len(rows)))
                for frame in looked:
                    try:
                        cell = cells[int(rows[frame])].as_py()
                        shown = picture(cell, recording.folder, episode, frame)
                    except WamkitError as problem:
                        yield Finding(str(file), problem.what, episode.index, frame)
                        continue
                    if shown.shape[:2] != feature.size:
                        yield _other_size(file, name, shown.shape, feature.size, episode, frame)


def _numbers(recording: Recording, columns: dict[str, NDArray[Any]]) -> Iterator[tuple[int, str]]:
    """Frame and fault, of one episode."""
    for name, values in columns.items():
        flat, shape = values.reshape(len(values), -1), recording.features[name].shape
        if len(values) and flat.shape[1] != int(np.prod(shape)):
            yield 0, f"{name!r} has {flat.shape[1]} numbers, the metadata says {list(shape)}"
        if flat.dtype.kind == "f":
            bad = np.flatnonzero(~np.isfinite(flat).all(1))
            if bad.size:
                yield int(bad[0]), f"{name!r} is NaN or infinite in {bad.size} frames"
    if "task_index" in columns and (numbers := columns["task_index"]).size:
        for number in sorted(set(numbers.ravel().tolist()) - set(_known_tasks(recording))):
            yield int(np.argmax(numbers == number)), f"task {number} has no instruction"
    if "frame_index" in columns:
        frames = columns["frame_index"].ravel()
        off = np.flatnonzero(frames != np.arange(len(frames)))
        if off.size:
            yield int(off[0]), f"frame_index is {frames[off[0]]}, expected {off[0]}"
    if "timestamp" in columns:
        yield from _times(columns["timestamp"].ravel().astype(np.float64), recording.fps)


def _times(times: NDArray[np.float64], fps: float) -> Iterator[tuple[int, str]]:
    steps = np.diff(times)
    back = np.flatnonzero(steps <= 0)
    if back.size:
        at = int(back[0]) + 1
        yield at, f"time goes from {times[at - 1]:.4f} s to {times[at]:.4f} s, it must rise"
        return
    off = np.flatnonzero(np.abs(times - np.arange(len(times)) / fps) > TOLERANCE)
    if not off.size:
        return
    rate = 1 / float(np.median(steps)) if steps.size else fps
    if abs(rate - fps) > 0.01 * fps:
        yield int(off[0]), f"frames come {rate:.4g} a second, fps in {INFO} is {fps:g}"
        return
    yield int(off[0]), f"time is {times[off[0]]:.4f} s, frame / fps is {off[0] / fps:.4f} s"


def _known_tasks(recording: Recording) -> dict[int, str]:
    try:
        return recording.tasks
    except WamkitError:
        return {}


def _film(
    recording: Recording, camera: str, file: Path, episodes: list[Episode], decode: bool
) -> Iterator[Finding]:
    """An mp4 file: there, of the right size and rate, with a picture for every frame."""
    first = episodes[0].index if len(episodes) == 1 else None
    fps, size = recording.fps, recording.features[camera].size
    try:
        video = Video(file)
    except WamkitError as problem:
        yield Finding(str(file), problem.what, first)
        return
    if abs(video.fps - fps) > 0.001 * fps:
        yield Finding(
            str(file), f"the video has {video.fps:.4g} pictures a second, {INFO} says {fps:g}"
        )
    if video.size != size:
        yield _other_size(file, camera, video.size, size, episodes[0], 0)
    times = video.times()
    for episode in episodes:
        wanted = episode.clips[camera].start + np.arange(episode.length) / fps
        after = np.searchsorted(times, wanted)
        near = (
            np.stack([times[np.clip(after + i, 0, len(times) - 1)] for i in (-1, 0)])
            if len(times)
            else np.full((2, episode.length), np.inf)
        )
        missing = np.flatnonzero(np.abs(near - wanted).min(0) > TOLERANCE)
        if missing.size:
            end = f"{len(times)} pictures up to {times[-1]:.3f} s" if len(times) else "none at all"
            yield Finding(
                str(file),
                f"no picture for {missing.size} of {episode.length} frames: the video has {end}",
                episode.index,
                int(missing[0]),
            )
        elif decode:
            for frame, moment in enumerate(wanted):
                try:
                    video.at([moment], TOLERANCE)
                except WamkitError as problem:
                    yield Finding(str(file), problem.what, episode.index, frame)
                    break
    video.close()


def _other_size(
    file: Path, name: str, found: Any, said: tuple[int, int], episode: Episode, frame: int
) -> Finding:
    why = f"{name!r} is {found[0]}x{found[1]}, the metadata says {said[0]}x{said[1]}"
    return Finding(str(file), why, episode.index, frame)
