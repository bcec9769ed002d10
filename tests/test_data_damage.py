"""However metadata are damaged, all of it is reported, and what is called whole can be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from wamkit.config.spec import parse, read
from wamkit.data import Columns, Feature, LeRobotFolder, Samples, Writer, check, compute_statistics
from wamkit.data.video import Video
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record

SMALL = Path(__file__).parent / "data" / "small.toml"
SPEC = parse(read(SMALL, ["state.size=2", "cameras.views.0.size=[16, 32]"]))
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
DATA = "data/chunk-000/file-000.parquet"
CAMERA = "videos/observation.images.front"
FILM = f"{CAMERA}/chunk-000/file-000.mp4"
NAN = float("nan")
Run = Callable[..., tuple[int, str, str]]
Change = Callable[[Path], Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", SPEC, episodes=3)


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "set"))


def column(file: str, name: str, values: Any) -> Change:
    """Other values in a column of a parquet file, or no such column."""

    def change(folder: Path) -> None:
        table = pq.read_table(folder / file)
        place = table.column_names.index(name)
        changed = table.remove_column(place)
        if values is not None:
            given = values(table.num_rows) if callable(values) else values
            changed = table.set_column(place, name, pa.array(given))
        (folder / file).unlink()
        pq.write_table(changed, folder / file)

    return change


def info(**values: Any) -> Change:
    """Other values in info.json; `feature__key` is a key of a feature."""

    def change(folder: Path) -> None:
        file = folder / "meta" / "info.json"
        report = json.loads(file.read_text())
        for name, value in values.items():
            place, _, key = name.partition("__")
            if key:
                report["features"][place][key] = value
            else:
                report[name] = value
        file.write_text(json.dumps(report))

    return change


def content(file: str, data: bytes | None) -> Change:
    """Other bytes in a file; the first half of its own if None."""

    def change(folder: Path) -> None:
        mine = (folder / file).read_bytes()
        (folder / file).unlink()
        (folder / file).write_bytes(mine[: len(mine) // 2] if data is None else data)

    return change


def examine(folder: Path) -> list[str]:
    """Findings of check; all else refuses the data set with a message, or reads it whole."""
    found = check(folder, SPEC, decode=True)
    assert all(finding.hint for finding in found)
    try:
        samples = Samples(folder, SPEC)
        for i in range(len(samples)):
            samples[i]
        compute_statistics(LeRobotFolder(folder), SPEC)
    except WamkitError:
        assert found
    return [str(finding) for finding in found]


def _unnamed(folder: Path) -> None:
    """A film whose header names a codec that does not exist."""
    data = (folder / FILM).read_bytes()
    (folder / FILM).unlink()
    (folder / FILM).write_bytes(data.replace(b"avc1", b"none").replace(b"av01", b"none"))


METADATA: dict[str, tuple[Change, str]] = {
    "no length": (column(EPISODES, "length", None), "has no column 'length'"),
    "null length": (column(EPISODES, "length", [12, None, 12]), "episode 1: length is missing"),
    "NaN length": (column(EPISODES, "length", [12, NAN, 12]), "episode 1: length is missing"),
    "half length": (column(EPISODES, "length", [12, 0.5, 12]), "length is 0.5, expected a whole"),
    "zero length": (column(EPISODES, "length", [12, 0, 12]), "length is 0, expected 1 or more"),
    "negative length": (column(EPISODES, "length", [12, -1, 12]), "length is -1, expected 1"),
    "length as text": (column(EPISODES, "length", ["12"] * 3), "length is '12', expected a whole"),
    "huge length": (column(EPISODES, "length", [12, 2**62, 12]), "expected less than 1e+12"),
    "other length": (column(EPISODES, "length", [12, 11, 13]), "12 rows, the metadata says 11"),
    "null number": (column(EPISODES, "episode_index", [0, None, 2]), "row 1: episode_index is"),
    "twice": (column(EPISODES, "episode_index", [0, 1, 1]), "episode 1: is there twice"),
    "gap": (column(EPISODES, "episode_index", [0, 1, 5]), "not numbered from 0 without a gap"),
    "no file": (column(EPISODES, "data/file_index", [0, None, 0]), "data/file_index is missing"),
    "other file": (
        column(EPISODES, "data/file_index", [0, 7, 0]),
        "file-007.parquet, episode 1: is missing",
    ),
    "start NaN": (column(EPISODES, f"{CAMERA}/from_timestamp", [0, NAN, 2.4]), "expected seconds"),
    "start below 0": (column(EPISODES, f"{CAMERA}/from_timestamp", [0, -1, 2.4]), "seconds from 0"),
    "starts overlap": (column(EPISODES, f"{CAMERA}/from_timestamp", [0, 0, 2.4]), "within episode"),
    "start far": (column(EPISODES, f"{CAMERA}/from_timestamp", [0, 1.2, 99.0]), "no image for"),
    "spans overlap": (column(EPISODES, "dataset_from_index", [0, 6, 24]), "within episode 0"),
    "span of another length": (column(EPISODES, "dataset_to_index", [12, 25, 36]), "length is 12"),
    "tasks are numbers": (column(EPISODES, "tasks", [[1], [2], [3]]), "expected a list of instruc"),
    "episodes cut": (content(EPISODES, None), "is damaged or incomplete"),
    "episodes empty": (content(EPISODES, b""), "is empty"),
    "no task_index": (column(TASKS, "task_index", None), "expected the task and task_index"),
    "null task": (column(TASKS, "task_index", [0, None]), "row 1: task_index is missing"),
    "task twice": (column(TASKS, "task_index", [0, 0]), "task 0 is there twice"),
    "task without words": (column(TASKS, "task", ["a", None]), "task 1 is None"),
    "tasks cut": (content(TASKS, None), "is damaged or incomplete"),
    "stats cut": (content("meta/stats.json", None), "meta/stats.json: cannot be read"),
    "info cut": (content("meta/info.json", None), "meta/info.json: cannot be read"),
    "info of another kind": (content("meta/info.json", b"[1]"), "holds a list, expected a table"),
    "fps of 0": (info(fps=0), "fps is 0"),
    "huge fps": (info(fps=1e308), "fps is 1e+308"),
    "tiny fps": (info(fps=5e-324), "fps is 5e-324"),
    "film without a codec": (_unnamed, "it names no codec"),
    "fps as text": (info(fps="fast"), "fps is 'fast'"),
    "version to come": (info(codebase_version="v4.0"), "is of version v4.0"),
    "no path": (info(data_path=None), "data_path is missing or cannot be filled in"),
    "path too long": (info(data_path="x" * 300), "is missing"),
    "path of other names": (info(data_path="data/{x}"), "data_path is missing or cannot be filled"),
    "shape as text": (info(action__shape="three"), "'action' is {"),
    "no type": (info(action__dtype=None), "'action' is None of shape [3]"),
    "total": (info(total_frames=35), "total_frames is 35, the episodes' metadata has 36"),
    "film empty": (content(FILM, b""), "is empty"),
    "film cut": (content(FILM, None), FILM),
    "no film": (lambda folder: (folder / FILM).unlink(), "is missing"),
}


@pytest.mark.parametrize("kind", list(METADATA))
def test_damaged_metadata_is_found_and_nothing_breaks_off(folder: Path, kind: str) -> None:
    change, message = METADATA[kind]
    change(folder)
    found = examine(folder)
    assert any(message in line for line in found), found


COLUMNS = ("timestamp", "frame_index", "episode_index", "index", "task_index", "action")
VALUES: dict[str, Any] = {
    "nothing": lambda n: [None] * n,
    "one null": lambda n: [None, *range(1, n)],
    "words": lambda n: ["x"] * n,
    "negative": lambda n: [-7] * n,
    "ragged lists": lambda n: [[1.0] * (i % 3) for i in range(n)],
    "tables": lambda n: [{"a": 1}] * n,
    "NaN": lambda n: [NAN] * n,
    "pairs": lambda n: [[0, 0]] * n,
    "dates": lambda n: np.array(["2026-01-01"] * n, "datetime64[s]"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_damaged_columns_are_found_whatever_they_hold(
    whole: Path, tmp_path: Path, name: str
) -> None:
    for kind, values in {**VALUES, "no column": None}.items():
        folder = Path(shutil.copytree(whole, tmp_path / kind))
        column(DATA, name, values)(folder)
        assert examine(folder), kind


def test_images_that_are_something_else_are_found(tmp_path: Path) -> None:
    kinds: dict[str, Any] = {
        "numbers": [1.0] * 36,
        "lists": [[1, 2]] * 36,
        "bytes": [b"x"] * 36,
        "words in place of bytes": [{"bytes": "x", "path": None}] * 36,
    }
    for kind, values in kinds.items():
        folder = record(tmp_path / kind, SPEC, episodes=3, image_format="image")
        column(DATA, "observation.images.front", values)(folder)
        found = examine(folder)
        assert any("no readable image" in line for line in found), found


def test_two_columns_of_one_name_are_found(folder: Path) -> None:
    for file, name in ((DATA, "timestamp"), (EPISODES, "length"), (TASKS, "task_index")):
        table = pq.read_table(folder / file)
        (folder / file).unlink()
        pq.write_table(table.append_column(name, table[name]), folder / file)
        assert any(f"has two columns {name!r}" in line for line in examine(folder)), file
        (folder / file).unlink()
        pq.write_table(table, folder / file)


def test_integers_may_be_written_as_floats(folder: Path) -> None:
    column(EPISODES, "length", [12.0, 12.0, 12.0])(folder)
    column(EPISODES, "data/file_index", [0.0, 0.0, 0.0])(folder)
    column(TASKS, "task_index", [0.0, 1.0])(folder)
    assert examine(folder) == []


def test_every_fault_is_reported_at_once(folder: Path) -> None:
    column(EPISODES, "length", [12, None, 12])(folder)
    column(EPISODES, "data/chunk_index", [0, 0, -3])(folder)
    column(TASKS, "task_index", [0, None])(folder)
    column(DATA, "timestamp", lambda n: [NAN] * n)(folder)
    text = "\n".join(examine(folder))
    for message in (
        "length is missing",
        "chunk_index is -3",
        "task_index is missing",
        "'timestamp'",
    ):
        assert message in text
    with pytest.raises(WamkitError, match=r"has 2 faults:\n- .*length is missing\n.*hint: "):
        Samples(folder, SPEC)


def test_rows_that_are_mixed_are_found(folder: Path) -> None:
    table = pq.read_table(folder / DATA)
    (folder / DATA).unlink()
    pq.write_table(table.take([i // 3 + 12 * (i % 3) for i in range(36)]), folder / DATA)
    assert any("not in one piece" in line for line in examine(folder))


LINES = {
    '{"episode_index": 0, "length": 12}\n{"episode_ind': "line 2 is no JSON table",
    "[1]": "line 1 is no JSON table",
    '{"episode_index": null, "length": 12}': "episode_index is missing",
    '{"episode_index": 0, "length": NaN}': "it holds NaN, which is no number in JSON",
    '{"episode_index": 0, "length": 12, "tasks": 5}': "tasks is 5",
}


@pytest.mark.parametrize("text", list(LINES))
def test_broken_lines_of_version_2_are_found(folder: Path, text: str) -> None:
    info(
        codebase_version="v2.1",
        data_path="data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        video_path="videos/{video_key}/{episode_index:06d}.mp4",
    )(folder)
    (folder / "meta" / "episodes.jsonl").write_text(text)
    (folder / "meta" / "tasks.jsonl").write_text('{"task_index": 0, "task": "a"}\n{"task')
    found = examine(folder)
    assert any(LINES[text] in line for line in found), found
    assert any("meta/tasks.jsonl: line 2 is no JSON table" in line for line in found)


@pytest.fixture(scope="module")
def strange(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A robot that calls everything otherwise, at another rate."""
    features = {
        "observation.images.cam_high": Feature("image", (8, 8, 3)),
        "observation.images.cam_wrist": Feature("image", (8, 8, 3)),
        "observation.joints": Feature("float32", (2,)),
        "action": Feature("float32", (7,)),
    }
    place = tmp_path_factory.mktemp("data") / "strange"
    with Writer(place, 25, features) as writer:
        frame = {name: np.zeros(f.shape, np.uint8) for name, f in features.items()}
        writer.add_episode("lift", [frame] * 3)
    return place


def test_all_that_a_policy_lacks_is_reported_at_once_and_can_be_typed(
    strange: Path, wamkit: Run
) -> None:
    views = 'cameras.views=[{name="top",size=[16,16]},{name="wrist",size=[16,16]}]'
    spec = parse(read(SMALL, ["state.size=2", views]))
    args = ["--spec", SMALL, "--set", "state.size=2", "--set", views]
    code, out, _ = wamkit("data", "check", strange, *args)
    assert code == 1 and "has 5 faults" in out
    hints = [line.split("hint: ")[1] for line in out.splitlines() if "hint: " in line]
    assert hints[0] == "--key-map top=observation.images.cam_high"
    assert hints[1] == "--key-map wrist=observation.images.cam_wrist"
    assert hints[2].startswith("change the sizes of actions.groups in the spec to 7")
    assert hints[3].startswith("--key-map state=observation.joints")
    assert hints[4].startswith("--set actions.control_hz=25")
    with pytest.raises(
        WamkitError, match=r"(?s)5 faults.*cam_high.*cam_wrist.*joints.*control_hz=25"
    ):
        Samples(strange, spec)
    code, _, err = wamkit("data", "stats", strange, *args)
    assert code == 2 and "2 faults" in err and "observation.joints" in err
    groups = 'actions.groups=[{name="a",size=7}]'
    options = ["--set", groups, "--set", "actions.control_hz=25"]
    for hint in (hints[0], hints[1], hints[3].split(",")[0]):
        options += hint.split()
    code, out, _ = wamkit("data", "check", strange, *args, *options)
    assert (code, out) == (0, f"{strange} is whole.\n")


def test_a_view_that_the_policy_does_not_have_is_reported(strange: Path) -> None:
    found = check(strange, SPEC, Columns({"frnt": "observation.images.cam_high"}))
    assert "the policy has no view 'frnt'; it has front" in str(found[0])
    assert found[0].hint == "did you mean 'front'?"


def test_a_feature_that_the_metadata_lacks_is_reported(folder: Path) -> None:
    features = LeRobotFolder(folder).info["features"]
    info(features={name: raw for name, raw in features.items() if name != "timestamp"})(folder)
    assert examine(folder) == ["meta/info.json: there is no feature 'timestamp'"]


def test_files_that_disagree_about_a_shape_are_found(folder: Path) -> None:
    table = pq.read_table(folder / DATA)
    owners = np.array(table["episode_index"].to_pylist())
    (folder / DATA).unlink()
    for k in range(3):
        mine = table.filter(pa.array(owners == k))
        if k == 1:
            place = mine.column_names.index("action")
            mine = mine.set_column(place, "action", pa.array([0.5] * mine.num_rows))
        pq.write_table(mine, folder / DATA.replace("file-000", f"file-{k:03d}"))
    column(EPISODES, "data/file_index", [0, 1, 2])(folder)
    assert any("'action' has 1 values" in line for line in examine(folder))


def test_a_film_that_cannot_be_searched_has_no_images(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = Video(folder / FILM)

    class Broken:
        def seek(self, *_: object, **__: object) -> None:
            raise av.error.PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(video, "_container", Broken())
        assert not video.times().size
    assert video.times().size == 36
    video.close()
