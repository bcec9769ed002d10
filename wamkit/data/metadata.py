"""The metadata of a LeRobot folder, read to its end: what can be used of it, and every fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WamkitError
from ..paths import expect_text, read_text
from ..placeholders import placeholder
from . import parquet
from .findings import AGAIN, CONVERT, DataError, Finding, of, whole

T = TypeVar("T")
PICTURES = ("video", "image")
RATES = 1e6  # frames a second; more, or as few in so many seconds, is damage
NEEDED = "it needs codebase_version, fps, and features with dtype and shape"


def information(file: Path) -> tuple[dict[str, Any], list[Finding]]:
    """What info.json says, and everything that is wrong with it."""
    if (other := placeholder(file)) is not None:
        return {}, of(other, str(file))
    try:
        info = json.loads(read_text(file))
        if not isinstance(info, dict):
            raise TypeError(f"it holds a {type(info).__name__}, expected a table")
    except (OSError, ValueError, TypeError) as error:
        return {}, [Finding(str(file), f"{file} cannot be read: {error}", hint=NEEDED)]
    return info, [Finding(str(file), f"{file}{why}", hint=hint) for why, hint in _wrong(info)]


def _wrong(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if missing := [key for key in ("codebase_version", "fps", "features") if key not in info]:
        yield f" lacks {', '.join(missing)}", NEEDED
    version = str(info.get("codebase_version", "v3.0"))
    if not version.startswith(("v2.", "v3.")):
        yield (
            f" is of version {version}; read are v2.0, v2.1 and v3.0",
            "convert the data set with LeRobot's own script",
        )
    try:
        right = 1 / RATES < float(info.get("fps", 1)) < RATES
    except (TypeError, ValueError, OverflowError):
        right = False
    if not right:
        yield f": fps is {info['fps']!r}", "it is the number of frames a second"
    features = info.get("features", {})
    if not isinstance(features, dict):
        yield f": features is {features!r:.60}", "it is a table: name = {dtype, shape}"
        return
    for name, raw in features.items():
        try:
            shape, dtype = tuple(map(int, raw["shape"])), raw["dtype"]
        except (KeyError, TypeError, ValueError, OverflowError):
            yield f": {name!r} is {raw!r:.80}", "a feature has dtype and shape"
            continue
        if not isinstance(dtype, str) or min(shape, default=1) < 1:
            yield f": {name!r} is {dtype} of shape {list(shape)}", "write its type and its sizes"
        elif dtype in PICTURES and len(shape) != 3:
            yield f": {name!r} is {dtype} of shape {list(shape)}", "pictures are [height, width, 3]"


def lines(file: Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The tables in a file of JSON lines, and the lines that are none."""
    if (other := placeholder(file)) is not None:
        return [], of(other, str(file))
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        return [], [Finding(str(file), f"{file} cannot be read: {error}", hint=AGAIN)]
    found, faults = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if not isinstance(told, dict):
                raise ValueError(f"a {type(told).__name__}")
            expect_text("".join(map(str, told.values())), "line")
            found.append(told)
        except ValueError as error:
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
        except DataError as error:  # the same for every row
            faults += [fault for fault in error.findings if fault not in faults]
        except ValueError as error:
            number = row.get("episode_index")
            known = number if isinstance(number, int) and number >= 0 else None
            why = str(error) if known is not None else f"row {place}: {error}"
            faults.append(Finding(str(file), why, known, hint=CONVERT))
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
    counts = Counter(number for number, _ in pairs)
    for number in sorted(number for number, count in counts.items() if count > 1):
        wrong.append(Finding(str(file), f"task {number} is there twice", hint=CONVERT))
    return dict(pairs), [*faults, *wrong]
