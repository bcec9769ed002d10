"""The parquet files in meta/episodes of a LeRobot folder of version 3: a row for each episode.

LeRobot's tools look up the file of a row in its columns `meta/episodes/...`, read statistics of the
episode in `stats/FEATURE/NAME`, and take several files only if their columns are the same (lerobot
0.6.1, `datasets/dataset_tools.py` and `datasets/io_utils.py`). So files that lack columns are
completed before rows are added, and new rows have the columns that are there. They go into the last
file: of several, LeRobot's merge names the wrong ones (`datasets/aggregate.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from . import parquet
from .episode_statistics import (
    Statistics,
    histogram,
    image_statistics,
    merge_statistics,
    sampled_frames,
    to_lists,
    value_statistics,
)
from .findings import CONVERT
from .lerobot_format import Episode, LeRobotFolder
from .linking import put_table
from .metadata import json_table
from .reader import ColumnStore, FrameReader

FOLDER = Path("meta", "episodes")
BASIC = {"min", "max", "mean", "std", "count"}
CHUNK_INDEX, FILE_INDEX = "meta/episodes/chunk_index", "meta/episodes/file_index"


def table_files(folder: Path) -> list[Path]:
    """The files of the data set in a folder, in order."""
    return sorted((folder / FOLDER).rglob("*.parquet"))


def file_columns(file: Path) -> dict[str, int]:
    """The columns that name the file of a row, from chunk-000/file-000.parquet.

    Raises WamkitError if it has another name.
    """
    found = re.fullmatch(r"chunk-(\d+)/file-(\d+)", f"{file.parent.name}/{file.stem}")
    if not found:
        name = f"{FOLDER}/{file.parent.name}/{file.name}"
        raise WamkitError(f"{name} is not named as chunk-000/file-000.parquet", CONVERT)
    return {CHUNK_INDEX: int(found[1]), FILE_INDEX: int(found[2])}


def columns_of(statistics: Mapping[str, Statistics]) -> dict[str, Any]:
    """The statistics of features as columns of a row."""
    return {
        f"stats/{feature}/{name}": value
        for feature, known in statistics.items()
        for name, value in to_lists(known).items()
    }


def statistics_of(row: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The statistics of features in a row; columns without a value are left out."""
    found: dict[str, dict[str, Any]] = {}
    for column, value in row.items():
        if column.startswith("stats/") and value is not None:
            feature, _, name = column.removeprefix("stats/").rpartition("/")
            found.setdefault(feature, {})[name] = value
    return found


def episode_statistics(recording: LeRobotFolder, episode: Episode) -> dict[str, Statistics]:
    """Compute the statistics of every feature of a stored episode; images are [h, w, 3] uint8.

    Raises WamkitError if its frames cannot be read.
    """
    names = [name for name, feature in recording.features.items() if not feature.is_image]
    numbers, images = ColumnStore(recording, [episode], names), FrameReader(recording)
    found = {name: value_statistics(numbers[name]) for name in names}
    for name in recording.cameras:
        frames = sampled_frames(episode.length)
        every = (images.read(episode, name, [frame])[0] for frame in frames)
        found[name] = image_statistics(histogram(image) for image in every)
    return found


def tasks_of(recording: LeRobotFolder, episode: Episode) -> list[str]:
    """The instructions of a stored episode, in the order of its frames."""
    if episode.tasks:
        return list(episode.tasks)
    indices = ColumnStore(recording, [episode], ["task_index"])["task_index"][:, 0]
    return [recording.tasks[int(index)] for index in dict.fromkeys(indices.tolist())]


def add_missing_columns(folder: Path, recording: LeRobotFolder) -> None:
    """Give every file in a folder the columns that another has, and those that LeRobot needs.

    Statistics are computed from the frames of the recording where there are none. A file that lacks
    nothing is left as it is; others are written under a new inode. Raises WamkitError if frames
    cannot be read.
    """
    there = {file: parquet.open_parquet(file).schema_arrow for file in table_files(folder)}
    kinds = {f.name: f.type for schema in reversed(there.values()) for f in schema}
    measure_all = not any(name.startswith("stats/") for name in kinds)
    episodes = {episode.index: episode for episode in recording.episodes}
    for file, schema in there.items():
        missing = (kinds.keys() | {"tasks", CHUNK_INDEX, FILE_INDEX}) - set(schema.names)
        measure = measure_all or any(name.startswith("stats/") for name in missing)
        if not missing and not measure:
            continue
        rows = []
        for row in parquet.rows(file):
            episode = episodes[row["episode_index"]]
            found = {"tasks": tasks_of(recording, episode)} | file_columns(file)
            found |= columns_of(episode_statistics(recording, episode)) if measure else {}
            rows.append(found | row)
        added = {
            name: value
            for name, value in (rows[0] if rows else {}).items()
            if name not in kinds and (measure_all or not name.startswith("stats/"))
        }
        write_rows(rows, kinds | arrow_types(added), file)


def arrow_types(row: Mapping[str, Any]) -> dict[str, Any]:
    """The Arrow types in which LeRobot writes the columns of a row, in their order."""
    arrow = parquet.import_pyarrow()

    def kind(name: str, value: Any) -> Any:
        if isinstance(value, list):
            return arrow.list_(kind(name, value[0]))
        if isinstance(value, str):
            return arrow.string()
        real = name.endswith("timestamp") or name.startswith("stats/")
        return arrow.float64() if real and not name.endswith("/count") else arrow.int64()

    return {name: kind(name, value) for name, value in row.items()}


def append_rows(rows: Sequence[Mapping[str, Any]], file: Path, first: Path | None) -> None:
    """Add rows to a file, which need not be there; `first` is another of the same table.

    Raises WamkitError if an existing column cannot hold a value.
    """
    like = file if file.exists() else first
    if like is None:
        write_rows(rows, arrow_types(rows[0]), file)
        return
    kinds = {field.name: field.type for field in parquet.open_parquet(like).schema_arrow}
    write_rows(rows, kinds, file, parquet.read(file) if like == file else None)


def write_rows(
    rows: Sequence[Mapping[str, Any]], kinds: Mapping[str, Any], file: Path, before: Any = None
) -> None:
    """Rows, after those of the table `before`, as a file under a new inode.

    The old file may have a second name elsewhere. `kinds`: column -> Arrow type; a column that a
    row does not have is null. Raises WamkitError if a column cannot hold a value.
    """
    arrow, columns = parquet.import_pyarrow(), {}
    for name, kind in kinds.items():
        try:
            columns[name] = arrow.array([_to_cell(row.get(name), kind) for row in rows], kind)
        except (arrow.ArrowException, TypeError, ValueError) as error:
            raise WamkitError(
                f"the column {name!r} in {FOLDER} is {kind}: {error}", CONVERT
            ) from None
    table = arrow.table(columns)
    if before is not None:
        table = arrow.concat_tables([before, table.cast(before.schema)])
    put_table(table, file)


def _to_cell(value: Any, kind: Any) -> Any:
    """Convert a value to a cell of this type; older LeRobot versions store a minimum unwrapped."""
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_to_cell(one, kind.value_type) for one in value]
    if isinstance(value, float) and str(kind) == "bool":
        return bool(value)
    return value


def merged_statistics(folder: Path, new: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """meta/stats.json once the rows `new` have been added to the table.

    As LeRobot does it, from the file as it was. From all rows where that is missing, or of another
    form. Raises WamkitError if these are of different forms.
    """
    added = [statistics_of(row) for row in new]
    old: dict[str, Any] = {}
    with suppress(ValueError):
        old = json_table(folder / "meta" / "stats.json")
    with suppress(KeyError, TypeError, ValueError):
        return old | {
            f: to_lists(merge_statistics([old[f], *(one[f] for one in added)])) for f in added[0]
        }
    every = [statistics_of(row) for one in table_files(folder) for row in parquet.rows(one)]
    for feature, mine in added[0].items():
        known = [one[feature] for one in every if feature in one]
        whole = [one for one in known if one.keys() >= BASIC]
        try:
            old[feature] = to_lists(merge_statistics(whole or [mine]))
        except (TypeError, ValueError) as error:
            what = f"the statistics of {feature!r} in {FOLDER} cannot be used: {error}"
            raise WamkitError(what, CONVERT) from None
    return old
