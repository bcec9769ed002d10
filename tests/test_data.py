"""Recorded frames become samples and batches: the right images, actions, words and order."""

from __future__ import annotations

import json
import pickle
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import wamkit
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.data import Columns, Feature, LeRobotFolder, Loader, Samples, Writer, collate, split
from wamkit.data.loading import Order
from wamkit.data.reader import FrameReader
from wamkit.data.video_writer import VideoWriter
from wamkit.errors import WamkitError
from wamkit.testing.dataset import record
from wamkit.testing.parity import same_values

SMALL = Path(__file__).parent / "data" / "small.toml"
RAW: dict[str, Any] = read(SMALL) | {
    "actions": {
        "chunk_size": 4,
        "groups": [{"name": "arm", "size": 2, "kind": "delta"}, {"name": "gripper", "size": 1}],
    },
    "state": {"size": 2},
    "cameras": {
        "views": [{"name": "front", "size": [16, 32]}, {"name": "wrist", "size": [16, 16]}]
    },
}


def spec_with(**sections: Any) -> PolicySpec:
    return parse(RAW | sections)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("data") / "set", spec_with())


def brightness(episode: int, t: int) -> float:
    return 10.0 + 18 * t + 5 * episode


def test_a_sample_holds_what_was_recorded_around_its_moment(folder: Path) -> None:
    samples = Samples(folder, spec_with())
    sample = samples[12 + 5]  # episode 1, frame 5
    assert (sample["episode"], sample["frame"], sample["progress"]) == (1, 5, 6)
    assert sample["prompt"] == "task 1" and len(samples) == 24
    seen = sample["images"]["front"].float().mean((1, 2, 3))
    expected = [brightness(1, t) for t in (5, 7, 9)]
    torch.testing.assert_close(seen, torch.tensor(expected), atol=3, rtol=0)
    assert sample["images"]["wrist"].shape == (3, 3, 48, 64)
    assert sample["images"]["wrist"].dtype == torch.uint8
    same_values(sample["state"], torch.tensor([1.05, 1.15]), 1e-6)
    same_values(sample["next_state"], torch.tensor([1.09, 1.19]), 1e-6)
    same_values(sample["actions"][:, 0], torch.tensor([1.06, 1.07, 1.08, 1.09]), 1e-6)
    assert sample["frame_valid"].all() and sample["step_valid"].all()


def test_after_the_end_deltas_stand_still_and_targets_stay(folder: Path) -> None:
    sample = Samples(folder, spec_with())[10]
    assert sample["step_valid"].tolist() == [True, True, False, False]
    assert sample["frame_valid"].tolist() == [True, False, False]
    assert sample["actions"][2:, :2].eq(0).all()
    same_values(sample["actions"][:, 2], torch.tensor([0.31, 0.32, 0.32, 0.32]), 1e-6)
    seen = sample["images"]["front"].float().mean((1, 2, 3))
    expected = [brightness(0, t) for t in (10, 11, 11)]
    torch.testing.assert_close(seen, torch.tensor(expected), atol=3, rtol=0)
    same_values(sample["next_state"], torch.tensor([0.11, 0.21]), 1e-6)


def test_several_observed_images_end_at_the_state(folder: Path) -> None:
    spec = spec_with(video={"num_frames": 5, "num_observed": 3, "frame_stride": 2})
    sample = Samples(folder, spec)[2]
    assert sample["frame_valid"].tolist() == [False, True, True, True, True]
    seen = sample["images"]["wrist"].float().mean((1, 2, 3))
    expected = [brightness(0, t) for t in (0, 0, 2, 4, 6)]
    torch.testing.assert_close(seen, torch.tensor(expected), atol=3, rtol=0)


def test_a_batch_trains_a_policy(folder: Path) -> None:
    policy = wamkit.build(spec_with())
    samples = Samples(folder, policy.spec)
    batch = collate([samples[3], samples[23]])
    assert batch.next_state is not None and batch.next_state.shape == (2, 2)
    losses = policy.loss(batch, seed=0)
    assert torch.isfinite(losses.total) and set(losses.parts) == {"action", "video"}


def test_images_within_the_parquet_are_read_exactly(tmp_path: Path) -> None:
    spec = spec_with()
    samples = Samples(record(tmp_path / "set", spec, image_format="image"), spec)
    sample = samples[12 + 5]
    for i, t in enumerate((5, 7, 9)):
        assert sample["images"]["front"][i].eq(brightness(1, t)).all()


@pytest.mark.parametrize("image_format", ["image", "video"])
def test_an_image_is_decoded_once_while_there_is_room_for_it(
    tmp_path: Path, image_format: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = LeRobotFolder(record(tmp_path / "set", spec_with(), image_format=image_format))
    episode, key, size = recording.episodes[1], "observation.images.front", 48 * 64 * 3
    decoded: list[int] = []
    plain = FrameReader._decode

    def counted(self: Any, dtype: str, episode: Any, key: str, frames: Any) -> Any:
        decoded.extend(frames)
        return plain(self, dtype, episode, key, frames)

    monkeypatch.setattr(FrameReader, "_decode", counted)
    found = FrameReader(recording, room=3 * size)
    first = found.read(episode, key, [2, 1, 2, 3])
    assert np.array_equal(found.read(episode, key, [1, 2, 3]), first[[1, 0, 3]])
    assert decoded == [1, 2, 3]
    found.read(episode, key, [4])  # in the place of 1, which was asked for longest ago
    found.read(episode, key, [2, 3, 4, 1])
    assert decoded == [1, 2, 3, 4, 1]
    assert found._cache.held == 3 * size
    none = FrameReader(recording, room=0)
    assert np.array_equal(none.read(episode, key, [3, 3]), first[[3, 3]])


def test_other_names_of_columns_are_mapped(tmp_path: Path) -> None:
    features = {
        "top": Feature("image", (8, 8, 3)),
        "joints": Feature("float32", (2,)),
        "command": Feature("float32", (3,)),
    }
    values = {"top": np.zeros((8, 8, 3), np.uint8), "joints": [1, 2], "command": [3, 4, 5]}
    with Writer(tmp_path / "set", 10, features) as writer:
        writer.add_episode("lift", [values] * 3)
    spec = spec_with(cameras={"views": [{"name": "front", "size": [16, 16]}]})
    with pytest.raises(WamkitError, match=r"has no 'observation\.images\.front' for front"):
        Samples(tmp_path / "set", spec)
    columns = Columns.of(["front=top", "state=joints", "action=command"])
    assert Samples(tmp_path / "set", spec, columns)[0]["actions"][0].tolist() == [3, 4, 5]
    with pytest.raises(WamkitError, match="maps no column"):
        Columns.of(["front"])


def test_a_data_set_that_does_not_fit_is_refused_with_a_message(folder: Path) -> None:
    actions = RAW["actions"] | {"control_hz": 20}
    with pytest.raises(WamkitError, match="10 frames a second, the spec 20 actions"):
        Samples(folder, spec_with(actions=actions))
    with pytest.raises(WamkitError, match=r"float32 \[2\], the spec has 7 values"):
        Samples(folder, spec_with(state={"size": 7}))
    with pytest.raises(WamkitError, match="holds no images, and view 'front' needs them"):
        Samples(folder, spec_with(), Columns({"front": "action"}))
    with pytest.raises(WamkitError, match="no episode 2; it has 2"):
        Samples(folder, spec_with(), episodes=[0, 2])
    with pytest.raises(WamkitError, match=r"no data set at .*: it has no meta/info.json"):
        Samples(folder / "data", spec_with())


def test_version_2_1_is_read_the_same(folder: Path, tmp_path: Path) -> None:
    old = _as_version_2(folder, tmp_path / "old")
    new, spec = Samples(folder, spec_with()), spec_with()
    samples = Samples(old, spec)
    assert samples.recording.version == "v2.1" and len(samples) == len(new)
    for i in (0, 11, 17):
        mine, theirs = samples[i], new[i]
        assert mine["prompt"] == theirs["prompt"]
        same_values(mine["actions"], theirs["actions"], 1e-6)
        seen = mine["images"]["front"].float().mean((1, 2, 3))
        torch.testing.assert_close(
            seen, theirs["images"]["front"].float().mean((1, 2, 3)), atol=4, rtol=0
        )


def _as_version_2(folder: Path, goal: Path) -> Path:
    """The same episodes with one parquet and one mp4 each, as LeRobot 2.1 lays them."""
    info = json.loads((folder / "meta" / "info.json").read_text())
    info |= {
        "codebase_version": "v2.1",
        "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/"
        "episode_{episode_index:06d}.mp4",
    }
    (goal / "meta").mkdir(parents=True)
    (goal / "meta" / "info.json").write_text(json.dumps(info))
    tasks = [{"task_index": i, "task": f"task {i}"} for i in range(2)]
    (goal / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    rows = [{"episode_index": i, "tasks": [f"task {i}"], "length": 12} for i in range(2)]
    (goal / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    table = pq.read_table(folder / "data" / "chunk-000" / "file-000.parquet")
    lists = {name: pa.array(table[name].to_pylist()) for name in table.column_names}
    (goal / "data" / "chunk-000").mkdir(parents=True)
    for episode in range(2):
        mine = pa.table(lists).slice(12 * episode, 12)
        pq.write_table(mine, goal / "data" / "chunk-000" / f"episode_{episode:06d}.parquet")
        for view in ("front", "wrist"):
            key = f"observation.images.{view}"
            file = goal / "videos" / "chunk-000" / key / f"episode_{episode:06d}.mp4"
            film = VideoWriter(file, 10, (48, 64), "h264")
            for t in range(12):
                film.add(np.full((48, 64, 3), brightness(episode, t), np.uint8))
            film.close()
    return goal


def test_the_split_is_by_episode_and_always_the_same(folder: Path) -> None:
    recording = LeRobotFolder(folder)
    train, validation = split(recording, 0.5, seed=1)
    assert split(recording, 0.5, seed=1) == (train, validation)
    assert sorted(train + validation) == [0, 1] and len(validation) == 1
    assert {s["episode"] for s in (Samples(folder, spec_with(), episodes=train)[i] for i in (0, 1))}
    assert split(recording, 0) == ((0, 1), ())
    with pytest.raises(WamkitError, match="leaves none to train on"):
        split(recording, 0.9)


def _announced(loader: Loader, count: int | None = None) -> list[list[float]]:
    return [batch.actions[:, 0, 2].tolist() for batch in islice(loader, count)]


def test_the_order_does_not_depend_on_the_number_of_workers(folder: Path) -> None:
    samples = Samples(folder, spec_with())
    alone, helped = Loader(samples, 5, seed=3), Loader(samples, 5, seed=3, workers=2)
    first = _announced(alone)
    assert len(first) == 4 and _announced(helped) == first
    second = _announced(alone)
    assert second != first and _announced(helped) == second
    assert _announced(Loader(samples, 5, seed=4)) != first


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_order_goes_on_as_the_uninterrupted_one(folder: Path, workers: int) -> None:
    samples = Samples(folder, spec_with())
    whole = Loader(samples, 5, seed=3)
    expected = _announced(whole) + _announced(whole)
    stopped = Loader(samples, 5, seed=3, workers=workers)
    seen = _announced(stopped) + _announced(stopped, 2)  # in the middle of the second epoch
    state = json.loads(json.dumps(stopped.state_dict()))
    assert (state["epoch"], state["position"]) == (1, 2)
    resumed = Loader(samples, 5, seed=3, workers=workers)
    resumed.load_state_dict(state)
    assert seen + _announced(resumed) == expected
    with pytest.raises(WamkitError, match="the order was of batch 5, this one is of 6"):
        Loader(samples, 6, seed=3).load_state_dict(state)


def test_processes_share_the_batches_that_one_would_take() -> None:
    alone = list(Order(23, 6, seed=1))
    shares = [list(Order(23, 2, seed=1, rank=rank, world=3)) for rank in range(3)]
    for step, batch in enumerate(alone):
        assert sorted(batch) == sorted(i for share in shares for i in share[step])
    assert [len(batch) for batch in Order(23, 6, shuffle=False, drop_last=False)] == [6, 6, 6, 5]
    with pytest.raises(WamkitError, match="23 samples do not fill a batch of 24"):
        Order(23, 24)


def test_samples_travel_to_a_process_that_is_started_anew(folder: Path) -> None:
    samples = Samples(folder, spec_with())
    first = samples[4]  # opens the videos
    again = pickle.loads(pickle.dumps(samples))[4]
    assert torch.equal(first["images"]["front"], again["images"]["front"])


def test_without_pyarrow_or_pyav_the_error_states_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    samples = Samples(folder, spec_with())
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(WamkitError, match=r'need PyAV.*\n.*pip install -e "\.\[data\]"'):
        samples[0]
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(WamkitError, match=r'need pyarrow.*\n.*pip install -e "\.\[data\]"'):
        Samples(folder, spec_with())
