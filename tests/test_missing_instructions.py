"""Tasks that are missing from a data set are no instruction: not "None", not "nan", not nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wamkit import Observation, WamkitError
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, Writer, check
from wamkit.data.instructions import expect_instruction
from wamkit.data.lerobot_format import Feature
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
SPEC = parse(read(SMALL, []), "small")
MISSING = [None, "", "  \n", "None", "nan", "NaN", "null", "<NA>", " none "]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return record(tmp_path / "set", SPEC)


def rename_tasks(folder: Path, task: str | None) -> None:
    """Give the first task of a data set another name, in all places."""
    file = folder / "meta" / "tasks.parquet"
    rows = pq.read_table(file).to_pylist()
    (name,) = {key for key in rows[0] if key != "task_index"}
    old, rows[0][name] = rows[0][name], task
    schema = pa.schema([(name, pa.string()), ("task_index", pa.int64())])
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
    for file in (folder / "meta" / "episodes").rglob("*.parquet"):
        table = pq.read_table(file)
        lists = [[task if t == old else t for t in ts] for ts in table["tasks"].to_pylist()]
        place = table.column_names.index("tasks")
        kind = pa.list_(pa.string())
        pq.write_table(table.set_column(place, "tasks", pa.array(lists, kind)), file)


@pytest.mark.parametrize("task", MISSING)
def test_check_training_and_showing_refuse_alike(folder: Path, wamkit: Run, task: Any) -> None:
    rename_tasks(folder, task)
    found = check(folder, SPEC)
    assert any("task 0 is" in finding.why and finding.hint for finding in found), found
    with pytest.raises(WamkitError, match=r"instruction|null"):
        Samples(LeRobotFolder(folder), SPEC)[0]
    for args in (("data", "check", folder), ("data", "show", folder)):
        code, _, err = wamkit(*args)
        assert code != 0 and "a bug" not in err
    code, _, err = wamkit("train", SMALL, "--data", folder, "--out", folder.parent / "run")
    assert code == 2 and "a bug" not in err and "hint:" in err


@pytest.mark.parametrize("task", [*MISSING, 3, float("nan")])
def test_what_is_no_instruction_is_not_recorded(tmp_path: Path, task: Any) -> None:
    with Writer(tmp_path / "set", 10, {"action": Feature("float32", (2,))}) as writer:
        writer.add_frame({"action": np.zeros(2, np.float32)})
        with pytest.raises(WamkitError, match="an episode without an instruction"):
            writer.add_episode(task)
        writer.add_episode("say none of it")


@pytest.mark.parametrize("task", ["pick up the cup", "none of them", "nancy", "没有"])
def test_text_that_only_looks_like_a_null_is_an_instruction(task: str) -> None:
    assert expect_instruction(task, "it") == task


@pytest.mark.parametrize("task", [None, float("nan"), "", " "])
def test_an_observation_without_an_instruction_is_refused(task: Any) -> None:
    with pytest.raises(WamkitError):
        Observation({"front": np.zeros((4, 4, 3), np.uint8)}, task)
    with pytest.raises(WamkitError):
        Observation({"front": np.zeros((4, 4, 3), np.uint8)}, [task])


def test_tasks_of_version_2_without_text_are_refused(tmp_path: Path) -> None:
    from wamkit.data import metadata

    (tmp_path / "meta").mkdir()
    rows = [{"task_index": i, "task": task} for i, task in enumerate(MISSING)]
    rows.append({"task_index": len(rows)})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "meta" / "tasks.jsonl").write_text(lines)
    known, faults = metadata.tasks(tmp_path, v3=False)
    assert known == {} and len(faults) == len(rows)
