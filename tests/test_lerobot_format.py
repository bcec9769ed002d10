"""What is written has the columns, types and statistics that LeRobot's own writer gives it.

`data/lerobot_v3.json` says what that writer, in the version named there, made of the same frames.
The tools of LeRobot themselves are tried where it is installed: see `test_every_tool_...`.
"""

from __future__ import annotations

import json
import os
import runpy
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wamkit.data import Feature, LeRobotFolder, Writer, check
from wamkit.data.episode_statistics import merge_statistics, sampled_frames, value_statistics
from wamkit.errors import WamkitError
from wamkit.testing.parity import same_values

DATA = Path(__file__).parent / "data"
TOOLS = Path(__file__).parent.parent / "benchmarks" / "lerobot_tools.py"
RECORDED: dict[str, Any] = json.loads((DATA / "lerobot_v3.json").read_text())
MAKE = runpy.run_path(str(DATA / "make_lerobot_v3.py"))
FEATURES = {
    name: Feature(raw["dtype"], raw["shape"], raw["names"])
    for name, raw in MAKE["FEATURES"].items()
}
LEROBOT = os.environ.get("LEROBOT_PYTHON") or find_spec("lerobot")
CAMERA = MAKE["SMALL"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The frames of `make_lerobot_v3.py`, written by wamkit."""
    return _write(tmp_path_factory.mktemp("sets") / "set")


def _write(folder: Path, part: slice = slice(None), **options: Any) -> Path:
    with Writer(folder, MAKE["FPS"], FEATURES, MAKE["ROBOT"], **options) as writer:
        for task, frames in list(MAKE["episodes"]())[part]:
            writer.add_episode(task, frames)
    return folder


def _rows(folder: Path) -> list[dict[str, Any]]:
    files = sorted((folder / "meta" / "episodes").rglob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def _json(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "meta" / name).read_text())
    return found


def _same(mine: Mapping[str, Any], theirs: Mapping[str, Any], prefix: str) -> None:
    """Quantiles within a bin of LeRobot's histograms, other statistics as float32 has them."""
    names = [name for name in theirs if name.startswith(prefix)]
    assert names and all(np.shape(mine[name]) == np.shape(theirs[name]) for name in names)
    for name in names:
        feature = name.rsplit("/", 1)[0]
        low, high = np.array(theirs[f"{feature}/min"]), np.array(theirs[f"{feature}/max"])
        room = (high - low) * (2.5e-4 if "/q" in name else 2e-3 if "/std" in name else 1e-5)
        off = np.abs(np.array(mine[name], float) - np.array(theirs[name], float))
        assert (off <= room + 1e-6 * np.maximum(np.abs(high), 1)).all(), name


def test_columns_and_types_are_lerobots(written: Path) -> None:
    found = {
        "data": next((written / "data").rglob("*.parquet")),
        "episodes": next((written / "meta" / "episodes").rglob("*.parquet")),
        "tasks": written / "meta" / "tasks.parquet",
    }
    for name, file in found.items():
        mine = {field.name: str(field.type) for field in pq.read_schema(file)}
        assert mine == RECORDED["columns"][name]
    pandas = json.loads(pq.read_schema(found["tasks"]).metadata[b"pandas"])
    assert pandas["index_columns"] == ["task"]


def test_info_is_lerobots(written: Path) -> None:
    assert _json(written, "info.json") == RECORDED["info"]


def test_rows_of_episodes_and_their_statistics_are_lerobots(written: Path) -> None:
    for mine, theirs in zip(_rows(written), RECORDED["episodes"], strict=True):
        plain = {name for name in theirs if not name.startswith("stats/")}
        assert {name: mine[name] for name in plain} == {name: theirs[name] for name in plain}
        _same(mine, theirs, "stats/")


def test_statistics_of_the_whole_are_lerobots(written: Path) -> None:
    mine, theirs = _json(written, "stats.json"), RECORDED["stats"]
    assert mine.keys() == theirs.keys()
    for feature, known in theirs.items():
        assert mine[feature].keys() == known.keys()
        flat = [{f"{feature}/{k}": v for k, v in one.items()} for one in (mine[feature], known)]
        _same(*flat, feature)


def test_adding_gives_the_same_rows_as_writing_at_once(written: Path, tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1))
    first = _rows(folder)
    _write(folder, slice(1, None))
    assert _rows(folder)[:1] == first
    for mine, once in zip(_rows(folder), _rows(written), strict=True):
        assert mine.keys() == once.keys()
        assert mine["stats/action/q10"] == once["stats/action/q10"]
    assert [row["meta/episodes/file_index"] for row in _rows(folder)] == [0, 0, 0]
    for feature, known in _json(written, "stats.json").items():
        for name, value in known.items():
            found = np.array(_json(folder, "stats.json")[feature][name], np.float64)
            same_values(found, np.array(value, np.float64), 1e-6)


@pytest.mark.parametrize("tasks", [True, False])
def test_adding_completes_episodes_that_lack_what_lerobot_needs(
    written: Path, tmp_path: Path, tasks: bool
) -> None:
    folder = _write(tmp_path / "set", slice(2), codec="h264")
    file = next((folder / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(file)
    kept = [n for n in table.column_names if not n.startswith(("stats/", "meta/"))]
    pq.write_table(table.select(kept if tasks else [n for n in kept if n != "tasks"]), file)
    (folder / "meta" / "stats.json").unlink()
    _write(folder, slice(2, None))
    assert check(folder, decode=True) == []
    for mine, once in zip(_rows(folder), _rows(written), strict=True):
        assert mine.keys() == once.keys() and mine["tasks"] == once["tasks"]
        numbers = {k: v for k, v in once.items() if k.startswith("stats/") and CAMERA not in k}
        _same(mine, numbers, "stats/")
        means = [np.array(row[f"stats/{CAMERA}/mean"]) for row in (mine, once)]
        assert np.abs(means[0] - means[1]).max() < 0.02  # decoded here, as they were given there
    assert _json(folder, "stats.json")["action"]["count"] == [138]


def test_adding_keeps_columns_and_keys_that_are_not_known_here(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1))
    file = next((folder / "meta" / "episodes").rglob("*.parquet"))
    table = pq.read_table(file)
    older = [n for n in table.column_names if "/q" not in n]  # as LeRobot wrote them before 0.4
    table = table.select(older).append_column("operator", pa.array(["anna"]))
    table = table.set_column(
        table.column_names.index("stats/next.success/min"),
        "stats/next.success/min",
        pa.array([[False]]),
    )
    pq.write_table(table, file)
    info = _json(folder, "info.json")
    info |= {"tools": [{"name": "say"}], "chunks_size": 7, "splits": {"train": "0:1", "val": "1:1"}}
    info["features"]["action"]["fps"] = 10
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    before = _rows(folder)
    _write(folder, slice(1, None))
    assert _rows(folder)[:1] == before and check(folder, decode=True) == []
    old, *new = _rows(folder)
    assert old["operator"] == "anna" and all(row["operator"] is None for row in new)
    assert [row.keys() for row in new] == [old.keys()] * 2
    assert new[0]["stats/next.success/min"] == [True]
    totals = {"total_episodes": 3, "total_frames": 138, "total_tasks": 2}
    assert _json(folder, "info.json") == info | totals


def test_a_table_of_episodes_that_is_large_is_followed_by_another(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1), data_megabytes=1e-3)
    _write(folder, slice(1, 2))
    assert [row["meta/episodes/file_index"] for row in _rows(folder)] == [0, 1]
    assert _rows(folder)[0].keys() == _rows(folder)[1].keys()


def test_instructions_keep_their_indexes_and_new_ones_follow(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1))
    tasks = pa.table({"task_index": [3, 0, 1], "task": ["same", "pick up the cup", "same"]})
    pq.write_table(tasks, folder / "meta" / "tasks.parquet")
    _write(folder, slice(1, None))
    found = pq.read_table(folder / "meta" / "tasks.parquet").to_pylist()
    assert [row["task_index"] for row in found] == [0, 1, 3, 4]
    assert [row["task"] for row in found] == ["pick up the cup", "same", "same", "put it down"]
    assert check(folder) == []


def test_videos_that_are_added_are_encoded_as_those_that_are_there(tmp_path: Path) -> None:
    import av

    folder = _write(tmp_path / "set", slice(1), codec="h264")
    _write(folder, slice(1, 2))
    for file in folder.rglob("*.mp4"):
        with av.open(str(file)) as container:
            assert container.streams.video[0].codec_context.name == "h264"
    info = _json(folder, "info.json")
    info["features"][CAMERA]["info"]["video.codec"] = "hevc"
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(WamkitError, match="in the codec hevc, which is not written here"):
        _write(folder, slice(1, 2))
    assert list(tmp_path.iterdir()) == [folder]
    assert len(LeRobotFolder(_write(folder, slice(1, 2), codec="h264")).episodes) == 3


def test_a_data_set_whose_files_are_elsewhere_is_not_added_to(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1))
    info = _json(folder, "info.json") | {"data_path": "data/{chunk_index}/{file_index}.parquet"}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(WamkitError, match="episodes are added to data/chunk-"):
        _write(folder, slice(1, 2))
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("damage", ["no JSON", '{"action": {"mean": [0]}}', "[]"])
def test_statistics_that_cannot_be_used_are_made_again(tmp_path: Path, damage: str) -> None:
    folder = _write(tmp_path / "set", slice(1))
    (folder / "meta" / "stats.json").write_text(damage)
    _write(folder, slice(1, 2))
    known = _json(folder, "stats.json")
    assert known["action"]["count"] == [8] and known["steps"]["max"] == [36]


def test_statistics_of_episodes_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set", slice(1))
    (folder / "meta" / "stats.json").unlink()
    file = next((folder / "meta" / "episodes").rglob("*.parquet"))
    table, name = pq.read_table(file), "stats/action/mean"
    for values, why in (([["a"]], "got a 'float'"), ([0.5], "is double"), ([[[1.0]]], "is list")):
        place = table.column_names.index(name)
        pq.write_table(table.set_column(place, name, pa.array(values)), file)
        before = file.read_bytes()
        with pytest.raises(WamkitError, match=why) as error:
            _write(folder, slice(1, 2))
        assert ".part" not in str(error.value)
        assert file.read_bytes() == before and list(tmp_path.iterdir()) == [folder]


def test_names_and_sizes_that_lerobot_refuses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WamkitError, match="'a/b'"):
        Writer(tmp_path / "set", 10, {"a/b": Feature("float32", (1,))})
    for size in (0, -1, float("nan"), float("inf")):
        with pytest.raises(WamkitError, match="megabytes"):
            Writer(tmp_path / "set", 10, FEATURES, data_megabytes=size)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_looked_at_are_spread_over_the_episode() -> None:
    assert sampled_frames(1) == [0] and sampled_frames(100) == list(range(100))
    assert (
        len(sampled_frames(101)) == 100
        and len(sampled_frames(464)) == 100
        and len(sampled_frames(1000)) == 177
    )
    assert sampled_frames(1000)[0] == 0 and sampled_frames(1000)[-1] == 999
    assert len(sampled_frames(10**6)) == 10_000


def test_statistics_together_are_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    parts = [value_statistics(rows[:20]), value_statistics(rows[20:])]
    whole, found = value_statistics(rows), merge_statistics(parts)
    for name in ("min", "max", "mean", "std", "count"):
        same_values(np.float64(found[name]), np.float64(whole[name]))
    older = {name: value for name, value in parts[1].items() if name != "q50"}
    assert "q50" not in merge_statistics([parts[0], older])
    with pytest.raises(ValueError, match="count"):
        merge_statistics([parts[0] | {"count": np.array([0])}])


def test_without_lerobot_its_tools_are_not_tried(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.delenv("LEROBOT_PYTHON", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert runpy.run_path(str(TOOLS))["main"]([]) == 0
    assert capsys.readouterr().out == "LeRobot is not installed here: nothing to try\n"


@pytest.mark.skipif(LEROBOT is None, reason="LeRobot is not installed; see docs/data.md")
@pytest.mark.parametrize("name", ["video, h264", "images, added to LeRobot's"])
def test_every_tool_of_lerobot_takes_what_wamkit_wrote(name: str, capsys: Any) -> None:
    assert runpy.run_path(str(TOOLS))["main"](["--sets", name]) == 0, capsys.readouterr().out
