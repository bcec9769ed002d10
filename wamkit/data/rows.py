"""Check the rows of a parquet file: columns, episodes, values, times, images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from . import parquet, timing
from .depth import ProbedImages
from .findings import CONVERT, Finding, findings_of
from .lerobot_format import Episode, LeRobotFolder
from .reader import decode_cell, not_finite

COPY = "copy it again, or write the data set again"


def check_data_file(
    recording: LeRobotFolder,
    file: Path,
    episodes: list[Episode],
    decode: bool,
    tolerance: float,
    probed: ProbedImages,
) -> Iterator[Finding]:
    """Rows of a parquet file: there, of the right shape, finite, on time.

    The images in them are noted in `probed`.
    """
    first = episodes[0].index if len(episodes) == 1 else None
    try:
        names = parquet.open_parquet(file).schema_arrow.names
        kinds = {name: feature.dtype for name, feature in recording.features.items()}
        inline = [name for name in names if kinds.get(name) == "image"]
        table = parquet.read(file, [name for name in names if name not in inline])
    except WamkitError as problem:
        yield from findings_of(problem, str(file), first)
        return
    columns: dict[str, NDArray[Any]] = {}
    for name, feature in recording.features.items():
        if feature.dtype == "video":
            continue
        if name not in names:
            yield Finding(str(file), f"there is no column {name!r}", hint=CONVERT)
        elif feature.dtype not in ("image", "string"):
            try:
                columns[name] = parquet.to_array(table[name])
            except ValueError as error:
                why = f"{name!r} has a wrong shape: {error}"
                yield Finding(str(file), why, hint="give every frame the same number of values")
                continue
            if columns[name].dtype.kind not in "iufb":
                why = f"{name!r} holds {table[name].type}, the metadata says {feature.dtype}"
                yield Finding(str(file), why, hint="write it as numbers")
                del columns[name]
    if "episode_index" not in columns:
        return
    owners = columns["episode_index"].ravel()
    if len(owners) != table.num_rows:
        why = f"'episode_index' has {len(owners)} values in {table.num_rows} rows"
        yield Finding(str(file), why, hint=COPY)
        return
    yield from _check_owners(recording, file, owners, episodes)
    for episode in episodes:
        rows = np.flatnonzero(owners == episode.index)
        if len(rows) != episode.length:
            yield Finding(
                str(file),
                f"{len(rows)} rows, the metadata says {episode.length} frames",
                episode.index,
                min(len(rows), episode.length),
                f"{COPY}, or correct its length and files in meta/episodes",
            )
        elif (np.diff(rows) != 1).any():
            at = int(np.flatnonzero(np.diff(rows) != 1)[0]) + 1
            why = "its rows are not in one piece"
            yield Finding(str(file), why, episode.index, at, "sort the rows by index")
        mine = {name: values[rows] for name, values in columns.items()}
        for frame, why, hint in _numbers(recording, mine):
            yield Finding(str(file), why, episode.index, frame, hint)
        if "timestamp" in mine:
            times = mine["timestamp"].ravel()
            yield from timing.findings(times, recording.fps, tolerance, str(file), episode.index)
        yield from _check_images(recording, inline, file, episode, rows, decode, probed)


def _check_owners(
    recording: LeRobotFolder, file: Path, owners: NDArray[Any], episodes: list[Episode]
) -> Iterator[Finding]:
    """Rows that belong to no episode, or to one that the metadata places elsewhere."""
    known = {episode.index for episode in episodes}
    exact = owners.astype(np.float64)
    if lost := int((~np.isfinite(exact)).sum()):
        yield Finding(str(file), f"{lost} rows have no episode_index", hint=COPY)
    for other in sorted(set(exact[np.isfinite(exact)].tolist()) - known):
        why = f"rows of episode {other:g}, which the metadata does not know"
        hint = "drop the rows, or write the metadata of that episode"
        if home := [
            episode.data for episode in recording.episodes_and_faults[0] if episode.index == other
        ]:
            why = f"rows of episode {other:g}, which the metadata has in {home[0]}"
            hint = "correct its file in meta/episodes"
        yield Finding(str(file), why, hint=hint)


def _numbers(
    recording: LeRobotFolder, columns: dict[str, NDArray[Any]]
) -> Iterator[tuple[int, str, str]]:
    """Frame, fault and cure, of one episode."""
    for name, values in columns.items():
        if not len(values):
            continue
        flat, shape = values.reshape(len(values), -1), recording.features[name].shape
        if flat.shape[1] != int(np.prod(shape)):
            why = f"{name!r} has {flat.shape[1]} values, the metadata says {list(shape)}"
            yield 0, why, "correct its shape in meta/info.json, or write the data again"
        if flat.dtype.kind == "f":
            bad = not_finite(flat)
            if bad.size:
                frames, labels = np.unique(bad[:, 0]), recording.features[name].labels
                place = int(bad[0, 1])
                which = labels[place] if place < len(labels) else place
                why = f"{name!r} is NaN or infinite in {frames.size} frames, first number {which}"
                yield (
                    int(frames[0]),
                    why,
                    "leave out those episodes, or fill in the measured values",
                )
    if "task_index" in columns and (numbers := columns["task_index"].ravel()).size:
        for number in sorted(set(numbers.tolist())):
            if (
                number == number and number not in recording.tasks_and_faults[0]
            ):  # NaN is reported above
                at = int(np.argmax(numbers == number))
                yield at, f"task {number} has no instruction", "write it into meta/tasks"
    if "frame_index" in columns:
        frames = columns["frame_index"].ravel()
        off = np.flatnonzero(frames != np.arange(len(frames)))
        if off.size:
            why = f"frame_index is {frames[off[0]]}, expected {off[0]}"
            yield int(off[0]), why, "sort the rows, and count frames from 0 in each episode"
    if "index" in columns and (counts := columns["index"].ravel()).size:
        off = np.flatnonzero(np.diff(counts) != 1)
        if off.size or counts[0] < 0:
            at = int(off[0]) + 1 if off.size else 0
            yield at, f"index is {counts[at]}, which does not go on by 1", "count frames from 0"


def _check_images(
    recording: LeRobotFolder,
    inline: list[str],
    file: Path,
    episode: Episode,
    rows: NDArray[np.intp],
    decode: bool,
    probed: ProbedImages,
) -> Iterator[Finding]:
    """Faults of the images within the parquet, of all of them or of the first."""
    for name in inline:
        size = recording.features[name].size
        wanted = rows.tolist() if decode else rows[:1].tolist()
        for frame, cell in enumerate(parquet.cells(file, name, wanted)):
            try:
                image = decode_cell(cell, recording.folder, episode, frame)
            except WamkitError as problem:
                hint = "record that frame again, or leave the episode out"
                yield Finding(str(file), problem.what, episode.index, frame, hint)
                continue
            probed.add(name, (str(file), episode.index, frame), image)
            if image.shape[:2] != size:
                yield size_finding(file, name, image.shape, size, episode, frame)


def size_finding(
    file: Path, name: str, found: Any, expected: tuple[int, int], episode: Episode, frame: int
) -> Finding:
    """Report an image whose size differs from the metadata."""
    why = f"{name!r} is {found[0]}x{found[1]}, the metadata says {expected[0]}x{expected[1]}"
    hint = f"correct the shape of {name!r} in meta/info.json, or write the images again"
    return Finding(str(file), why, episode.index, frame, hint)
