"""A data set appears atomically, can be added to, and is what LeRobot itself reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from wamkit.data import Feature, LeRobotFolder, Writer, check
from wamkit.data.reader import FrameReader
from wamkit.data.writer import notes
from wamkit.errors import WamkitError

CAMERA = "observation.images.front"
FEATURES = {
    CAMERA: Feature("video", (48, 64, 3)),
    "observation.state": Feature("float32", (2,), ["x", "y"]),
    "action": Feature("float32", (3,)),
    "reward": Feature("float32", (1,)),
}


def _frame(episode: int, t: int) -> dict[str, Any]:
    return {
        CAMERA: np.full((48, 64, 3), 100 * episode + 8 * t, np.uint8),
        "observation.state": [episode, t],
        "action": [t, t, episode],
        "reward": 0.5,
    }


def _write(folder: Path, **options: Any) -> Path:
    with Writer(folder, 10, FEATURES, "arm", **options) as writer:
        for episode in range(2):
            writer.add_episode(f"task {episode}", (_frame(episode, t) for t in range(12)))
    return folder


@pytest.mark.parametrize("codec", ["av1", "h264"])
def test_what_is_written_is_read_back(tmp_path: Path, codec: str) -> None:
    recording = LeRobotFolder(_write(tmp_path / "set", codec=codec))
    assert check(tmp_path / "set", decode=True) == []
    assert [episode.length for episode in recording.episodes] == [12, 12]
    assert recording.tasks == {0: "task 0", 1: "task 1"}
    assert recording.features["observation.state"].names == ["x", "y"]
    images = FrameReader(recording).read(recording.episodes[1], CAMERA, [11, 0, 3])
    expected = np.array([188, 100, 124])
    assert np.abs(images.mean((1, 2, 3)) - expected).max() < 4
    file = pq.ParquetFile(recording.episodes[0].data)
    assert file.num_row_groups == 2  # one for each episode
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


def test_every_second_image_is_a_key_frame(tmp_path: Path) -> None:
    import av

    folder = _write(tmp_path / "set")
    with av.open(str(next(folder.rglob("*.mp4")))) as container:
        keys = [packet.is_keyframe for packet in container.demux(video=0) if packet.size]
    assert keys == [True, False] * 12


def test_adding_keeps_what_was_there(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set")
    frames = [file for place in ("data", "videos") for file in (folder / place).rglob("file-000.*")]
    old = {file: file.read_bytes() for file in frames}
    first = pq.read_table(folder / "meta" / "episodes")
    with Writer(folder, 10, FEATURES) as writer:
        writer.add_episode("task 1", (_frame(0, t) for t in range(5)))
        writer.add_episode("task 2", (_frame(1, t) for t in range(4)))
    recording = LeRobotFolder(folder)
    assert check(folder, decode=True) == []
    assert [episode.length for episode in recording.episodes] == [12, 12, 5, 4]
    assert recording.tasks == {0: "task 0", 1: "task 1", 2: "task 2"}
    assert recording.info["robot_type"] == "arm" and recording.info["total_frames"] == 33
    assert len(old) == 2 and all(file.read_bytes() == data for file, data in old.items())
    assert pq.read_table(folder / "meta" / "episodes").slice(0, 2) == first
    rows = pq.read_table(recording.episodes[3].data)["index"].to_pylist()
    assert rows == list(range(24, 33))


def test_a_failure_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), Writer(folder, 10, FEATURES) as writer:
        writer.add_frame(_frame(0, 0))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    _write(folder)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    problem = pytest.raises(WamkitError, match="1 frames belong to no episode yet")
    with problem, Writer(folder, 10, FEATURES) as writer:
        writer.add_frame(_frame(0, 0))
    assert {f: f.read_bytes() for f in folder.rglob("*") if f.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_what_is_kept_is_not_lost_and_notes_stay(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    with pytest.raises(KeyboardInterrupt), Writer(folder, 10, FEATURES) as writer:
        writer.add_episode("task 0", (_frame(0, t) for t in range(5)))
        writer.notes["source"] = "a test"
        writer.keep()
        writer.add_episode("task 1", (_frame(1, t) for t in range(4)))
        raise KeyboardInterrupt
    assert [episode.length for episode in LeRobotFolder(folder).episodes] == [5]
    with Writer(folder, 10, FEATURES) as writer:
        assert writer.notes == {"source": "a test"}
        writer.add_episode("task 1", (_frame(1, t) for t in range(4)))
        writer.keep()
    assert [episode.length for episode in LeRobotFolder(folder).episodes] == [5, 4]
    assert notes(folder) == {"source": "a test"} and check(folder, decode=True) == []
    assert list(tmp_path.iterdir()) == [folder]
    (folder / "meta" / "wamkit.json").write_text("{")
    with pytest.raises(WamkitError, match=r"wamkit.json cannot be read"):
        Writer(folder, 10, FEATURES)
    assert list(tmp_path.iterdir()) == [folder]


def test_large_files_are_followed_by_others(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    small = {"data_megabytes": 1e-6, "video_megabytes": 1e-6}
    with Writer(folder, 10, FEATURES, "arm", codec="h264", **small) as writer:
        for episode in range(2):  # longer than what an encoder holds back
            writer.add_episode("task", (_frame(episode, t % 12) for t in range(100)))
    assert len(list(folder.rglob("*.mp4"))) == 2
    assert len(list((folder / "data").rglob("*.parquet"))) == 2
    assert check(folder, decode=True) == []


def test_statistics_are_in_lerobots_form(tmp_path: Path) -> None:
    stats = json.loads((_write(tmp_path / "set") / "meta" / "stats.json").read_text())
    assert stats["action"]["max"] == [11, 11, 1] and stats["action"]["count"] == [24]
    assert set(stats["action"]) >= {"min", "mean", "std", "q01", "q10", "q50", "q90", "q99"}
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1)
    assert abs(stats[CAMERA]["mean"][0][0][0] - 94 / 255) < 0.02


def test_a_frame_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "set", 10, FEATURES)
    frame = _frame(0, 0)
    for change, message in (
        ({"reward": None}, "a frame without"),
        ({"action": [1, 2]}, r"'action' is float32 \[2\] in a frame; expected float32 \[3\]"),
        ({"action": [1, 2, float("nan")]}, "'action' is not finite"),
        ({CAMERA: np.zeros((48, 64, 3))}, r"float64 \[48, 64, 3\] in a frame; expected uint8"),
    ):
        values = {k: v for k, v in (frame | change).items() if v is not None}
        with pytest.raises(WamkitError, match=message):
            writer.add_frame(values)
    with pytest.raises(WamkitError, match="an episode of 0 frames"):
        writer.add_episode("task")
    writer.discard()
    with pytest.raises(WamkitError, match="the feature 'timestamp'"):
        Writer(tmp_path / "set", 10, {"timestamp": Feature("float32", (1,))})
    odd = {"c": Feature("video", (5, 4, 3))}
    problem = pytest.raises(WamkitError, match="an even number of pixels")
    with problem, Writer(tmp_path / "set", 10, odd) as writer:
        writer.add_frame({"c": np.zeros((5, 4, 3), np.uint8)})
    assert list(tmp_path.iterdir()) == []


def test_another_data_set_is_not_added_to(tmp_path: Path) -> None:
    folder = _write(tmp_path / "set")
    with pytest.raises(WamkitError, match="that differs from the new episodes"):
        Writer(folder, 20, FEATURES)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(WamkitError, match="no data set at"):
        Writer(tmp_path / "notes", 10, FEATURES)


def test_lerobot_reads_it(tmp_path: Path) -> None:
    module = pytest.importorskip("lerobot.datasets.lerobot_dataset")
    folder = _write(tmp_path / "set")
    with Writer(folder, 10, FEATURES) as writer:
        writer.add_episode("task 1", (_frame(0, t) for t in range(5)))
    moments = {"action": [0, 0.1, 0.2], CAMERA: [0, 0.4]}
    data = module.LeRobotDataset(
        "local/set", root=folder, video_backend="pyav", delta_timestamps=moments
    )
    assert len(data) == 29
    item = data[12 + 2]
    assert item["task"] == "task 1" and item["observation.state"].tolist() == [1, 2]
    assert item["action"].tolist() == [[2, 2, 1], [3, 3, 1], [4, 4, 1]]
    seen = 255 * item[CAMERA].mean((1, 2, 3)).numpy()
    assert np.abs(seen - [116, 148]).max() < 4
    assert data[28]["action_is_pad"].tolist() == [False, True, True]
