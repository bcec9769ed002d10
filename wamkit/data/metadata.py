"""The metadata of a LeRobot folder, read to its end: what can be used of it, and every fault."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WamkitError
from ..placeholders import placeholder
from . import parquet
from .findings import AGAIN, CONVERT, Finding, of, whole

T = TypeVar("T")
PICTURES = ("video", "image")


def information(file: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What info.json says, and what is wrong with it."""
    if (other := placeholder(file)) is not None:
        return {}, of(other, str(file))
    try:
        info = dict(json.loads(file.read_text()))
        str(info["codebase_version"]), float(info["fps"])
        for raw in info["features"].values():
            tuple(map(int, raw["shape"])), str(raw["dtype"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        why = f"{file} cannot be read: {type(error).__name__}: {error}"
        hint = "it needs codebase_version, fps, and features with dtype and shape"
        return {}, [Finding(str(file), why, hint=hint)]
    return info, [Finding(str(file), f"{file}{why}", hint=hint) for why, hint in _wrong(info)]


def _wrong(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    version, fps = str(info["codebase_version"]), float(info["fps"])
    if not version.startswith(("v2.", "v3.")):
        yield (
            f" is of version {version}; read are v2.0, v2.1 and v3.0",
            "convert the data set with LeRobot's own script",
        )
    if not 0 < fps < float("inf"):
        yield f": fps is {info['fps']}", "it is the number of frames a second"
    for name, raw in info["features"].items():
        shape = tuple(map(int, raw["shape"]))
        if min(shape, default=1) < 1:
            yield f": {name!r} has the shape {list(shape)}", "sizes are 1 or more"
        elif str(raw["dtype"]) in PICTURES and len(shape) != 3:
            yield (
                f": {name!r} is {raw['dtype']} of shape {list(shape)}",
                "pictures are [height, width, 3]",
            )


def lines(file: Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The tables in a file of JSON lines, and the lines that are none."""
    if (other := placeholder(file)) is not None:
        return [], of(other, str(file))
    try:
        text = file.read_text()
    except (OSError, ValueError) as error:
        return [], [Finding(str(file), f"{file} cannot be read: {error}", hint=AGAIN)]
    found, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError) as error:
            why = f"line {number} is no JSON table: {error}"
            faults.append(Finding(str(file), why, hint="write that line again"))
    return found, faults


def table(file: Path, wanted: list[str], besides: list[str]) -> tuple[list[dict[str, Any]], Any]:
    """Rows of a parquet file with the columns `wanted`, and `besides` if they are there."""
    try:
        names = parquet.opened(file).schema_arrow.names
        if missing := [name for name in wanted if name not in names]:
            words = ", ".join(map(repr, missing))
            return [], [Finding(str(file), f"{file} has no column {words}", hint=CONVERT)]
        return parquet.rows(file, [*wanted, *(name for name in besides if name in names)]), []
    except WamkitError as problem:
        return [], of(problem, str(file))
    except Exception as error:  # a column of a kind that has no numbers or words
        why = f"{file} cannot be read: {type(error).__name__}: {error}"
        return [], [Finding(str(file), why, hint=CONVERT)]


def made(
    rows: list[tuple[Path, dict[str, Any]]], make: Callable[[dict[str, Any]], T]
) -> tuple[list[T], list[Finding]]:
    """What `make` makes of every row, and a finding for each that it refuses."""
    found, faults = [], []
    for place, (file, row) in enumerate(rows):
        try:
            found.append(make(row))
        except ValueError as error:
            hint = error.hint if isinstance(error, WamkitError) else CONVERT
            why = error.what if isinstance(error, WamkitError) else str(error)
            number = row.get("episode_index")
            known = number if isinstance(number, int) and number >= 0 else None
            where = why if known is not None else f"row {place}: {why}"
            if isinstance(error, WamkitError):  # the same for every row
                known, where = None, why
            faults.append(Finding(str(file), where, known, hint=hint))
    return found, faults


def words_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The instructions of an episode."""
    told = row.get("tasks")
    if isinstance(told, str):
        return (told,)
    if told is None:
        return ()
    if not isinstance(told, list) or not all(isinstance(text, str) for text in told):
        raise ValueError(f"tasks is {told!r}, expected a list of instructions")
    return tuple(told)


def tasks(folder: Path, *, v3: bool) -> tuple[dict[int, str], list[Finding]]:
    """task_index -> instruction, and every fault."""
    file = folder / "meta" / ("tasks.parquet" if v3 else "tasks.jsonl")
    if not v3:
        rows, faults = lines(file)
        name = "task"
    else:
        try:
            names = parquet.opened(file).schema_arrow.names
        except WamkitError as problem:
            return {}, of(problem, str(file))
        texts = [name for name in names if name != "task_index"]
        if "task_index" not in names or len(texts) != 1:
            why = f"{file} has the columns {', '.join(names)}; expected the task and task_index"
            return {}, [Finding(str(file), why, hint=CONVERT)]
        name = texts[0]
        rows, faults = table(file, ["task_index", name], [])

    def pair(row: dict[str, Any]) -> tuple[int, str]:
        number, text = whole(row, "task_index"), row.get(name)
        if not isinstance(text, str):
            raise ValueError(f"task {number} is {text!r}, expected an instruction")
        return number, text

    pairs, wrong = made([(file, row) for row in rows], pair)
    numbers = [number for number, _ in pairs]
    for number in sorted({n for n in numbers if numbers.count(n) > 1}):
        wrong.append(Finding(str(file), f"task {number} is there twice", hint=CONVERT))
    return dict(pairs), [*faults, *wrong]
