"""An untrusted data set opens no file outside, and takes no memory for sizes it only claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, Samples, check, parquet
from wamkit.data.encoding import sample_index
from wamkit.data.schema import MOST_EPISODES, MOST_FRAMES
from wamkit.data.templates import FIELDS, fault_of_template, fill
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
SPEC = parse(read(SMALL, ["state.size=2", "cameras.views.0.size=[16, 32]"]))
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
DATA = "data/chunk-000/file-000.parquet"
FRONT = "observation.images.front"
HUGE = 10**9
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", SPEC)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def set_info(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    file = folder / "meta" / "info.json"
    info = json.loads(file.read_text())
    change(info)
    file.unlink()
    file.write_text(json.dumps(info))


def set_column(file: Path, name: str, values: Any) -> None:
    table = pq.read_table(file)
    changed = table.set_column(table.column_names.index(name), name, pa.array(values))
    file.unlink()
    pq.write_table(changed, file)


def refusal(folder: Path) -> str:
    """Findings about a data set that `check` reports and readers refuse."""
    found = check(folder, SPEC)
    assert found and all(finding.hint for finding in found)
    with pytest.raises(WamkitError):
        Samples(folder, SPEC)
    return "\n".join(map(str, found))


PUBLISHED = {
    "v2": [
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    ],
    "v3": [
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    ],
}


@pytest.mark.parametrize("version", list(PUBLISHED))
def test_published_templates_are_filled_in(version: str) -> None:
    data, video = PUBLISHED[version]
    values = dict.fromkeys(FIELDS[version], 7) | {"video_key": FRONT}
    assert fault_of_template(data, version) is None
    assert fault_of_template(video, version, [FRONT]) is None
    assert fill(video, **values) == video.format(**values)
    for form in ("", ":d", ":02d", ":018d", ":03"):
        assert fault_of_template(f"data/{{{FIELDS[version][0]}{form}}}", version) is None


TEMPLATES: dict[str, str] = {
    "../{chunk_index}": "part '..'",
    "data/../../{chunk_index}": "part '..'",
    "/etc/passwd": "absolute",
    "C:/data/{file_index}": "absolute",
    r"data\{file_index}": "backslash",
    "data/\0{file_index}": r"U\+0000",
    "data/\x1b[2J": r"U\+001B",
    "": "is empty",
    "data//{file_index}": "empty part",
    "x" * 256: "part of 256 bytes",
    "x/" * 600 + "x": "at most 1,024",
    "data/{chunk_index.__class__}": "has the field",
    "data/{chunk_index[0]}": "has the field",
    "data/{0}": "has the field",
    "data/{}": "has the field",
    "data/{episode_index:06d}": "has the field",
    "data/{video_key}": "has the field",
    "data/{root}": "has the field",
    "data/{chunk_index!r}": "writes chunk_index as '!r'",
    "data/{chunk_index!s:>9}": "writes chunk_index as '!s:>9'",
    "data/{chunk_index:>999999999}": "writes chunk_index as",
    "data/{chunk_index:0999999999d}": "writes chunk_index as",
    "data/{chunk_index:{file_index}}": "writes chunk_index as",
    "data/{chunk_index:.3f}": "writes chunk_index as",
    "data/{chunk_index:,}": "writes chunk_index as",
    "data/{chunk_index:c}": "writes chunk_index as",
    "data/{chunk_index": "expected '}'",
    "data/}": "Single '}'",
}


@pytest.mark.parametrize("template", list(TEMPLATES))
def test_templates_name_files_of_the_data_set_and_nothing_else(folder: Path, template: str) -> None:
    set_info(folder, lambda info: info.update(data_path=template))
    with pytest.raises(WamkitError, match=f"data_path .*{TEMPLATES[template]}") as problem:
        LeRobotFolder(folder)
    assert len(str(problem.value)) < 1000
    refusal(folder)


@pytest.mark.parametrize("value", [None, 7, [], {}, True])
def test_templates_of_another_type_are_refused(folder: Path, value: Any) -> None:
    set_info(folder, lambda info: info.update(video_path=value))
    assert "video_path is missing or cannot be filled in: it is" in refusal(folder)


@pytest.mark.parametrize("key", ["../../x", "/etc", "a\0b", "..", "x" * 300, r"a\b", ""])
def test_a_camera_names_no_file_outside(folder: Path, key: str) -> None:
    def rename(info: dict[str, Any]) -> None:
        info["features"][key] = info["features"].pop(FRONT)

    set_info(folder, rename)
    assert "video_path is missing or cannot be filled in" in refusal(folder)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/passwd", r"..\x", "C:x", "a\0b", "", "x/"])
def test_an_image_cell_names_no_file_outside(tmp_path: Path, path: str) -> None:
    folder = record(tmp_path / "set", SPEC, image_format="image")
    cell = pq.read_table(folder / DATA)[FRONT][0].as_py()
    (tmp_path / "secret.png").write_bytes(cell["bytes"])
    cells_of = [{"bytes": None, "path": path}] * 24
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    set_column(folder / DATA, FRONT, pa.array(cells_of, kind))
    assert "names the file" in refusal(folder)


def test_an_image_cell_may_name_a_linked_file_of_the_data_set(tmp_path: Path) -> None:
    folder = record(tmp_path / "set", SPEC, image_format="image")
    (tmp_path / "blob").write_bytes(pq.read_table(folder / DATA)[FRONT][0].as_py()["bytes"])
    (folder / "images").mkdir()
    (folder / "images" / "0.png").symlink_to("../../blob")
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    named = [{"bytes": None, "path": "images/0.png"}] * 24
    set_column(folder / DATA, FRONT, pa.array(named, kind))
    assert check(folder, SPEC, decode=True) == []


def test_files_of_a_data_set_may_be_links_as_in_the_cache_of_the_hub(
    whole: Path, tmp_path: Path
) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    for number, file in enumerate(p for p in sorted(whole.rglob("*")) if p.is_file()):
        shutil.copy(file, blobs / str(number))
        link = snapshot / file.relative_to(whole)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(number))
    assert check(snapshot, SPEC, decode=True) == []
    assert len(Samples(snapshot, SPEC)) == 24


INFO: dict[str, tuple[dict[str, Any], str]] = {
    "fps 0": ({"fps": 0}, "fps is 0"),
    "fps below 0": ({"fps": -10}, "fps is -10"),
    "fps NaN": ({"fps": float("nan")}, "NaN"),
    "fps infinite": ({"fps": float("inf")}, "Infinity"),
    "fps 1e9": ({"fps": 1e9}, "fps is 1000000000.0"),
    "fps of 4000 digits": ({"fps": 10**4000}, "fps is 1000"),
    "fps as text": ({"fps": "10"}, "fps is '10'"),
    "fps true": ({"fps": True}, "fps is True"),
    "fps null": ({"fps": None}, "fps is None"),
    "fps a list": ({"fps": [10]}, r"fps is \[10\]"),
    "version null": ({"codebase_version": None}, "is of version None"),
    "version a number": ({"codebase_version": 3}, "is of version 3"),
    "episodes 1e9": ({"total_episodes": HUGE}, "total_episodes is 1000000000"),
    "episodes as text": ({"total_episodes": "2"}, "total_episodes is '2'"),
    "frames below 0": ({"total_frames": -1}, "total_frames is -1"),
    "frames a float": ({"total_frames": 24.5}, "total_frames is 24.5"),
    "chunks 0": ({"chunks_size": 0}, "chunks_size is 0"),
    "chunks a table": ({"chunks_size": {}}, "chunks_size is {}"),
    "features a list": ({"features": []}, "features is "),
    "2000 features": (
        {"features": {str(i): {"dtype": "int8", "shape": [1]} for i in range(2000)}},
        "features is ",
    ),
}


@pytest.mark.parametrize("kind", list(INFO))
def test_info_is_of_the_types_and_within_the_ranges_of_its_schema(folder: Path, kind: str) -> None:
    changes, message = INFO[kind]
    set_info(folder, lambda info: info.update(changes))
    with pytest.raises(WamkitError, match=message) as problem:
        LeRobotFolder(folder)
    assert len(str(problem.value)) < 1000
    refusal(folder)


SHAPES: dict[str, Any] = {
    "1e9": [HUGE],
    "1e9 in two": [10**5, 10**5],
    "4000 digits": [10**4000],
    "many axes": [1] * 1000,
    "text": "3",
    "texts": ["3"],
    "floats": [2.0],
    "true": [True],
    "0": [0],
    "below 0": [-3],
    "nested": [[3]],
    "null": None,
}


@pytest.mark.parametrize("kind", list(SHAPES))
def test_shapes_of_features_are_bounded_integers(folder: Path, kind: str) -> None:
    set_info(folder, lambda info: info["features"]["action"].update(shape=SHAPES[kind]))
    text = refusal(folder)
    assert "'action' is " in text and len(text) < 2000


def test_info_is_bounded_in_depth_and_size(folder: Path) -> None:
    file = folder / "meta" / "info.json"
    for text in ("[" * 10**5, '{"a":' * 10**5, '{"fps": 1' + "0" * 10**5 + "}"):
        file.unlink()
        file.write_text(text)
        assert "meta/info.json: cannot be read" in refusal(folder)
    with file.open("wb") as stream:
        stream.truncate(2**27)
    assert "at most 67,108,864 are read" in refusal(folder)


LENGTHS: dict[str, Any] = {
    "a length of 1e9": ("length", [12, HUGE], "at most 10,000,000 frames"),
    "a length that memory holds no frames for": ("length", [12, MOST_FRAMES], "24 rows|12 rows"),
    "an infinite start": (
        f"videos/{FRONT}/from_timestamp",
        [0.0, float("inf")],
        "expected seconds",
    ),
    "a start in years": (f"videos/{FRONT}/from_timestamp", [0.0, 1e300], "expected seconds"),
    "a file of 1e13": ("data/file_index", [0, 10**13], "expected less than"),
    "a chunk below 0": ("data/chunk_index", [0, -1], "expected 0 or more"),
    "a chunk as text": ("data/chunk_index", ["../..", "0"], "expected a whole number"),
}


@pytest.mark.parametrize("kind", list(LENGTHS))
def test_episodes_claim_no_more_than_is_there(folder: Path, kind: str) -> None:
    column, values, message = LENGTHS[kind]
    set_column(folder / EPISODES, column, values)
    assert any(word in refusal(folder) for word in message.split("|"))


def test_frames_that_are_claimed_are_counted_before_anything_is_made_of_them(folder: Path) -> None:
    set_column(folder / EPISODES, "length", [12, MOST_FRAMES])
    with pytest.raises(WamkitError, match="24 rows, the metadata says 10,000,012 frames"):
        sample_index(LeRobotFolder(folder))
    found = "\n".join(map(str, check(folder, SPEC)))
    assert "24 images, the metadata says 10,000,012 frames" in found


def _repeated(file: Path, name: str, count: int) -> None:
    """A small file with a column of one value, `count` times."""
    piece = pa.table({name: pa.array(np.zeros(10**6, np.int64))})
    file.unlink()
    with pq.ParquetWriter(file, piece.schema) as writer:
        for _ in range(count // 10**6):
            writer.write_table(piece, row_group_size=10**6)


def test_metadata_of_too_many_episodes_are_refused(folder: Path) -> None:
    wanted = pq.read_table(folder / EPISODES)
    (folder / EPISODES).unlink()
    pq.write_table(wanted.take(pa.array(np.zeros(MOST_EPISODES + 1, np.int64))), folder / EPISODES)
    assert "1,000,001 rows, at most 1,000,000 are read" in refusal(folder)


def test_a_file_that_stands_for_more_than_memory_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "ALWAYS", 2**22)
    bombs = {name: tmp_path / name for name in ("repeated", "text", "list", "null")}
    bombs["repeated"].touch()
    _repeated(bombs["repeated"], "x", 2 * 10**6)
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1000, np.int32)), ["x" * 10**5])
    pq.write_table(pa.table({"x": text}), bombs["text"], store_schema=False)
    row = pa.ListArray.from_arrays([0, 10**6], pa.array(np.zeros(10**6, np.float32)))
    pq.write_table(pa.table({"x": row}), bombs["list"])
    pq.write_table(pa.table({"x": pa.array([None], pa.list_(pa.int8(), 2 * 10**6))}), bombs["null"])
    for name, file in bombs.items():
        assert file.stat().st_size < 2**22 / parquet.RATIO, name
        with pytest.raises(WamkitError, match="would take more than 4,194,304 in memory"):
            parquet.read(file)
    with pytest.raises(WamkitError, match="would take more than 4,194,304 in memory"):
        list(parquet.cells(bombs["text"], "x", range(1000)))


def test_cells_of_a_column_are_those_of_its_rows(tmp_path: Path) -> None:
    values = [f"row {i}" for i in range(1000)]
    pq.write_table(pa.table({"x": values, "y": values}), tmp_path / "a", row_group_size=7)
    for rows in ([], [0], [999], [0, 6, 7, 8, 500, 501, 999], range(1000)):
        assert list(parquet.cells(tmp_path / "a", "x", rows)) == [values[i] for i in rows]


VERSION_2 = {
    "codebase_version": "v2.1",
    "data_path": PUBLISHED["v2"][0],
    "video_path": PUBLISHED["v2"][1],
}
LINES = {
    '{"episode_index": 0, "length": 1' + "0" * 400 + "}": "expected less than 1e+12",
    '{"episode_index": 0, "length": 1' + "0" * 5000 + "}": "is no JSON table",
    '{"episode_index": 0, "length": "12"}': "expected a whole number",
    '{"episode_index": 0, "length": [12]}': "expected a whole number",
    '{"episode_index": 0, "length": true}': "expected a whole number",
    '{"episode_index": 0, "length": 1000000000}': "at most 10,000,000 frames",
    '{"episode_index": 0, "length": 12, "tasks": ["\\ud800"]}': "not UTF-8",
    "[" * 10**5: "nested",
    '{"episode_index": 0, "length": 12, "tasks": ["' + "x" * 2**20 + '"]}': "a line has more than",
    '{"a": 1}\n' * 5000: "the rest is not read",
    "x\n" * 5000: "the rest is not read",
}


@pytest.mark.parametrize("text", list(LINES), ids=[line[:40] for line in LINES])
def test_lines_of_version_2_are_bounded_tables(folder: Path, text: str) -> None:
    set_info(folder, lambda info: info.update(VERSION_2))
    (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "a"}\n')
    (folder / "meta" / "episodes.jsonl").write_text(text)
    assert LINES[text] in refusal(folder)


STATISTICS: dict[str, Any] = {
    "a list": [1],
    "no table": {"action": [1]},
    "text": {"action": {"mean": ["0"]}},
    "null": {"action": {"mean": None}},
    "NaN": {"action": {"mean": [float("nan")]}},
}


@pytest.mark.parametrize("kind", list(STATISTICS))
def test_statistics_of_other_programs_are_tables_of_numbers(folder: Path, kind: str) -> None:
    (folder / "meta" / "stats.json").unlink()
    (folder / "meta" / "stats.json").write_text(json.dumps(STATISTICS[kind]))
    line = json.dumps({"episode_index": 0, "stats": STATISTICS[kind]})
    (folder / "meta" / "episodes_stats.jsonl").write_text(f"{line}\n")
    found = "\n".join(map(str, check(folder, SPEC)))
    assert "meta/stats.json: cannot be read" in found
    assert "meta/episodes_stats.jsonl" in found
