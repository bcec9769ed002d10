"""The metadata of a LeRobot folder, read completely: usable content and every fault."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from ..errors import WamkitError
from ..files import strict_json
from ..files.paths import expect_text, read_text
from ..files.placeholders import placeholder_error
from . import parquet
from .findings import AGAIN, CONVERT, DataError, Finding, findings_of, integer
from .instructions import expect_instruction
from .schema import MOST_BYTES, MOST_EPISODES, fault_of_statistics, faults_of_info
from .templates import fault_of_template

T = TypeVar("T")
NEEDED = "it needs codebase_version, fps, and features with dtype and shape"
MOST_LINES_BYTES = 2**30  # of a file of JSON lines
MOST_LINE_BYTES = 2**20  # of one line
TEMPLATE = "convert the data set with LeRobot's own script"
MOST_FAULTS = 1000  # of one file that are kept


def read_info(file: Path) -> tuple[dict[str, Any], list[Finding]]:
    """Read info.json; return its content and every fault."""
    if (other := placeholder_error(file)) is not None:
        return {}, findings_of(other, str(file))
    try:
        info = json_table(file)
    except ValueError as error:
        return {}, [Finding(str(file), f"{file} cannot be read: {error}", hint=NEEDED)]
    return info, [Finding(str(file), f"{file}{why}", hint=hint) for why, hint in _wrong(info)]


def json_table(file: Path) -> dict[str, Any]:
    """The table in a JSON file, which is not trusted. Raises ValueError if it holds no table."""
    try:
        if (size := file.stat().st_size) > MOST_BYTES:
            raise ValueError(f"it has {size:,} bytes, at most {MOST_BYTES:,} are read")
        found = strict_json.loads(expect_text(read_text(file), "file"))
        expect_text(json.dumps(found, ensure_ascii=False), "file")  # half characters as escapes
    except OSError as error:
        raise ValueError(error.strerror) from None
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, expected a table")
    return found


def _wrong(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    if missing := [key for key in ("codebase_version", "fps", "features") if key not in info]:
        yield f" lacks {', '.join(missing)}", NEEDED
    version = str(info.get("codebase_version", "v3.0"))
    if not version.startswith(("v2.", "v3.")):
        yield (
            f" is of version {version:.20}; read are v2.0, v2.1 and v3.0",
            "convert the data set with LeRobot's own script",
        )
        return
    known = {"codebase_version": "v3.0", "fps": 1, "features": {}} | info
    faults = list(faults_of_info(known))
    yield from faults
    if faults or missing:
        return
    films = [name for name, raw in info["features"].items() if raw["dtype"] == "video"]
    for key, cameras in (("data_path", []), ("video_path", films)):
        if key == "data_path" or films:
            why = fault_of_template(info.get(key), version[:2], cameras)
            if why is not None:
                yield f": {key} is missing or cannot be filled in: {why}", TEMPLATE


def lines(file: Path) -> tuple[list[dict[str, Any]], list[Finding]]:
    """The tables in a file of JSON lines, and the lines that are none."""
    if (other := placeholder_error(file)) is not None:
        return [], findings_of(other, str(file))
    found: list[dict[str, Any]] = []
    faults: list[Finding] = []
    try:
        for number, line in enumerate(_raw_lines(file), 1):
            if not line.strip():
                continue
            try:
                found.append(_table_of(line))
            except ValueError as error:
                why = f"line {number} is no JSON table: {error}"
                faults.append(Finding(str(file), why, hint="write that line again"))
            if len(found) > MOST_EPISODES or len(faults) >= MOST_FAULTS:
                bound = f"more than {len(found) + len(faults) - 1:,} lines"
                why = f"{bound}, {len(faults):,} of them damaged: the rest is not read"
                return found, [*faults, Finding(str(file), why, hint=AGAIN)]
    except (OSError, ValueError) as error:
        return [], [Finding(str(file), f"{file} cannot be read: {error}", hint=AGAIN)]
    return found, faults


def _raw_lines(file: Path) -> Iterator[bytes]:
    """The lines of a file within bounds. Raises ValueError or OSError if it goes beyond them."""
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")
    if (size := file.stat().st_size) > MOST_LINES_BYTES:
        raise ValueError(f"it has {size:,} bytes, at most {MOST_LINES_BYTES:,} are read")
    with file.open("rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            raise ValueError("it is in UTF-16 or UTF-32, expected UTF-8")
        stream.seek(0)
        while line := stream.readline(MOST_LINE_BYTES + 1):
            if len(line) > MOST_LINE_BYTES:
                raise ValueError(f"a line has more than {MOST_LINE_BYTES:,} bytes")
            yield line


def _table_of(line: bytes) -> dict[str, Any]:
    """The table in a line of JSON. Raises ValueError if there is none."""
    try:
        content = strict_json.loads(line.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(content, dict):
        raise ValueError(f"a {type(content).__name__}")
    expect_text(json.dumps(content, ensure_ascii=False), "line")
    return content


def table(file: Path, wanted: list[str], besides: list[str]) -> tuple[list[dict[str, Any]], Any]:
    """Rows of a parquet file with the columns `wanted`, and `besides` if they are there."""
    try:
        names = parquet.open_parquet(file).schema_arrow.names
        if missing := [name for name in wanted if name not in names]:
            columns = ", ".join(map(repr, missing))
            return [], [Finding(str(file), f"{file} has no column {columns}", hint=CONVERT)]
        return parquet.rows(file, [*wanted, *(name for name in besides if name in names)]), []
    except WamkitError as problem:
        return [], findings_of(problem, str(file))
    except Exception as error:  # a column of a type without numeric or text values
        why = f"{file} cannot be read: {type(error).__name__}: {error}"
        return [], [Finding(str(file), why, hint=CONVERT)]


def convert_rows(
    rows: list[tuple[Path, dict[str, Any]]], make: Callable[[dict[str, Any]], T]
) -> tuple[list[T], list[Finding]]:
    """Apply `make` to every row; return the results, and a finding for each row it refuses."""
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
        if len(faults) >= MOST_FAULTS:
            why = (
                f"{len(faults):,} of the first {place + 1:,} rows are damaged; the rest is not read"
            )
            return found, [*faults, Finding(str(file), why, hint=AGAIN)]
    return found, faults


def instructions_of(row: dict[str, Any]) -> tuple[str, ...]:
    """The instructions of an episode."""
    content = row.get("tasks")
    if content is None:
        return ()
    if isinstance(content, str):
        content = [content]
    if not isinstance(content, list) or not all(isinstance(text, str | None) for text in content):
        raise ValueError(f"tasks is {content!r:.80}, expected a list of instructions")
    return tuple(expect_instruction(text, "one of tasks") for text in content)


def tasks(folder: Path, *, v3: bool) -> tuple[dict[int, str], list[Finding]]:
    """task_index -> instruction, and every fault."""
    file = folder / "meta" / ("tasks.parquet" if v3 else "tasks.jsonl")
    if not v3:
        rows, faults = lines(file)
        name = "task"
    else:
        try:
            names = parquet.open_parquet(file).schema_arrow.names
        except WamkitError as problem:
            return {}, findings_of(problem, str(file))
        texts = [name for name in names if name != "task_index"]
        if "task_index" not in names or len(texts) != 1:
            why = f"{file} has the columns {', '.join(names)}; expected the task and task_index"
            return {}, [Finding(str(file), why, hint=CONVERT)]
        name = texts[0]
        rows, faults = table(file, ["task_index", name], [])

    def pair(row: dict[str, Any]) -> tuple[int, str]:
        number, text = integer(row, "task_index"), row.get(name)
        return number, expect_instruction(text, f"task {number}")

    pairs, wrong = convert_rows([(file, row) for row in rows], pair)
    counts = Counter(number for number, _ in pairs)
    for number in sorted(number for number, count in counts.items() if count > 1):
        wrong.append(Finding(str(file), f"task {number} is there twice", hint=CONVERT))
    return dict(pairs), [*faults, *wrong]


def faults_of_episode_statistics(file: Path) -> list[Finding]:
    """Everything that is wrong with meta/episodes_stats.jsonl of version 2.1."""
    rows, faults = lines(file)

    def statistics(row: dict[str, Any]) -> None:
        integer(row, "episode_index")
        if (fault := fault_of_statistics(row.get("stats"))) is not None:
            raise ValueError(f"stats: {fault}")

    _, wrong = convert_rows([(file, row) for row in rows], statistics)
    return [*faults, *wrong]
