"""What is written next to an untrusted data set stays there: no link, and no name, leads out."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from wamkit.config.parts import EnvironmentConfig
from wamkit.data import Feature, LeRobotFolder, Writer, check
from wamkit.errors import WamkitError
from wamkit.simulate.record import CollectionConfig


class Nothing(EnvironmentConfig):
    """An environment that is never built."""

    name: Literal["nothing"] = "nothing"


FEATURES = {"action": Feature("float32", (2,))}


def added(folder: Path, episodes: int = 1) -> Path:
    with Writer(folder, 10, FEATURES) as writer:
        for _ in range(episodes):
            writer.add_episode("try", [{"action": np.ones(2)}] * 3)
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    place = tmp_path / "outside"
    place.mkdir()
    (place / "kept").write_text("mine")
    return place


LINKS = ["meta/wamkit", "meta/episodes/chunk-001", "data/chunk-000", "meta", "videos", "x"]


@pytest.mark.parametrize("name", LINKS)
def test_no_episode_is_added_through_a_link_to_a_folder(
    tmp_path: Path, outside: Path, name: str
) -> None:
    folder = added(tmp_path / "set")
    link = folder / name
    if link.exists():
        shutil.copytree(link, outside / "copy")
        shutil.rmtree(link)
        link.symlink_to(outside / "copy")
    else:
        link.symlink_to(outside)
    before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    with pytest.raises(WamkitError, match=f"{name} is a link to a folder"):
        added(folder)
    assert before == {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["outside", "set"]


def test_a_link_back_to_where_it_is_ends(tmp_path: Path) -> None:
    folder = added(tmp_path / "set")
    (folder / "data" / "loop").symlink_to(folder)
    with pytest.raises(WamkitError, match="is a link to a folder"):
        added(folder)
    assert len(LeRobotFolder(folder).episodes) == 1


@pytest.mark.parametrize("kind", ["a link to nothing", "a pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, outside: Path, kind: str) -> None:
    """A link to nothing under the name of the next file would be written through."""
    folder = added(tmp_path / "set")
    place = folder / "data" / "chunk-000" / "file-001.parquet"
    if kind == "a pipe":
        os.mkfifo(place)
    else:
        place.symlink_to(outside / "new")
    with pytest.raises(WamkitError, match=r"file-001\.parquet is no file, or a link to none"):
        added(folder)
    assert [p.name for p in outside.iterdir()] == ["kept"]


@pytest.mark.parametrize(
    "name", ["meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/wamkit.json"]
)
def test_files_that_are_links_are_replaced_and_not_written_through(
    tmp_path: Path, outside: Path, name: str
) -> None:
    folder = added(tmp_path / "set")
    file, goal = folder / name, outside / "target"
    if not file.exists():
        file.write_text("{}")
    shutil.move(file, goal)
    file.symlink_to(goal)
    before = goal.read_bytes()
    with Writer(folder, 10, FEATURES) as writer:
        writer.notes["source"] = "a test"
        writer.add_episode("again", [{"action": np.ones(2)}] * 3)
    assert goal.read_bytes() == before and not file.is_symlink()
    assert len(LeRobotFolder(folder).episodes) == 2 and check(folder) == []


def test_a_data_set_that_is_a_link_is_replaced_and_not_written_through(
    tmp_path: Path, outside: Path
) -> None:
    added(outside / "set")
    (tmp_path / "link").symlink_to(outside / "set")
    before = {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    added(tmp_path / "link")
    assert before == {p: p.read_bytes() for p in outside.rglob("*") if p.is_file()}
    assert len(LeRobotFolder(tmp_path / "link").episodes) == 2


@pytest.mark.parametrize("name", ["..", ".", "a/b", r"a\b", "a\0b", "\x1b[2J", "", "x" * 300])
@pytest.mark.parametrize("kind", ["video", "image"])
def test_a_camera_whose_name_is_no_name_of_a_file_is_not_written(
    tmp_path: Path, kind: str, name: str
) -> None:
    with pytest.raises(WamkitError) as problem:
        Writer(tmp_path / "set", 10, {name: Feature(kind, (8, 8, 3))})
    assert problem.value.hint and list(tmp_path.iterdir()) == []


def test_pipes_in_place_of_metadata_are_not_waited_for(tmp_path: Path) -> None:
    folder = added(tmp_path / "set")
    for name in ("tasks.parquet", "info.json"):
        (folder / "meta" / name).unlink()
        os.mkfifo(folder / "meta" / name)
        assert check(folder)
    info = tmp_path / "v2" / "meta"
    info.mkdir(parents=True)
    about = {"codebase_version": "v2.1", "fps": 10, "data_path": "data/{episode_index}"}
    about["features"] = {"action": {"dtype": "float32", "shape": [2]}}
    (info / "info.json").write_text(json.dumps(about))
    for name in ("tasks.jsonl", "episodes.jsonl"):
        os.mkfifo(info / name)
    assert any("is no regular file" in str(finding) for finding in check(tmp_path / "v2"))


ENTRY = {
    "seed": 0,
    "noise": 0.1,
    "post_success_steps": 4,
    "episodes": 1,
    "frames": 3,
    "attempts": 1,
}
NOTES: dict[str, Any] = {
    "a list": [1],
    "text": "x",
    "collected is a table": {"collected": {}},
    "collected is a number": {"collected": 3},
    "entries are numbers": {"collected": [3]},
    "an empty entry": {"collected": [{}]},
    "1e9 episodes": {"collected": [ENTRY | {"environment": {}, "episodes": 10**9}]},
    "more episodes than attempts": {"collected": [ENTRY | {"environment": {}, "attempts": 0}]},
    "attempts below 0": {"collected": [ENTRY | {"environment": {}, "attempts": -1}]},
    "attempts as text": {"collected": [ENTRY | {"environment": {}, "attempts": "1"}]},
}


@pytest.mark.parametrize("kind", list(NOTES))
def test_notes_of_a_data_set_are_of_their_schema(tmp_path: Path, kind: str) -> None:
    folder = added(tmp_path / "set")
    (folder / "meta" / "wamkit.json").write_text(json.dumps(NOTES[kind]))
    with pytest.raises(WamkitError, match=r"wamkit\.json|damaged") as problem:
        CollectionConfig(Nothing()).count_kept(folder)
    assert "remove" in problem.value.hint
