"""Statistics are those of all frames, of what the policy learns, and are computed once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import wamkit
from wamkit.config.check import check
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.data import Feature, LeRobotFolder, Samples, Writer, compute_statistics
from wamkit.errors import WamkitError
from wamkit.policy.actions import ActionSpace, Statistics
from wamkit.testing.fixtures import observation
from wamkit.testing.parity import same_values

SMALL = Path(__file__).parent / "data" / "small.toml"


def spec_of(kind: str) -> PolicySpec:
    arm: dict[str, Any] = {"name": "arm", "size": 2, "kind": kind}
    if kind == "relative":
        arm["state"] = 1
    actions = {"chunk_size": 4, "groups": [{"name": "gripper", "size": 1}, arm]}
    return parse(read(SMALL, ["state.size=3"]) | {"actions": actions})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of different lengths and ranges, of random numbers."""
    rng = np.random.default_rng(0)
    features = {
        "observation.images.front": Feature("image", (8, 8, 3)),
        "observation.state": Feature("float32", (3,)),
        "action": Feature("float32", (3,)),
    }
    place = tmp_path_factory.mktemp("data") / "set"
    with Writer(place, 10, features) as writer:
        for scale, length in ((1, 40), (10, 15)):
            for _ in range(length):
                writer.add_frame(
                    {
                        "observation.images.front": np.zeros((8, 8, 3), np.uint8),
                        "observation.state": scale * rng.normal(size=3),
                        "action": scale * rng.normal(size=3),
                    }
                )
            writer.add_episode("try")
    return place


def _all(folder: Path, spec: PolicySpec) -> tuple[torch.Tensor, torch.Tensor]:
    """Actions as the policy learns them [all steps, A], and every state [frames, P]."""
    samples, space = Samples(folder, spec), ActionSpace(spec.actions)
    steps, states = [], []
    for i in range(len(samples)):
        sample = samples[i]
        relative = space.relative(sample["actions"][None], sample["state"][None])[0]
        steps.append(relative[sample["step_valid"]])
        states.append(sample["state"])
    return torch.cat(steps), torch.stack(states)


def _close(found: Statistics, values: torch.Tensor, dims: slice) -> None:
    expected = Statistics.of(values)
    for name in Statistics.__dataclass_fields__:
        mine, theirs = (torch.tensor(getattr(s, name))[dims] for s in (found, expected))
        same_values(mine, theirs)


def test_relative_groups_are_described_as_the_policy_learns_them(
    folder: Path, tmp_path: Path
) -> None:
    spec = spec_of("relative")
    found = compute_statistics(LeRobotFolder(folder), spec, cache=tmp_path)
    steps, states = _all(folder, spec)
    _close(found["action"], steps, slice(1, 3))
    _close(found["state"], states, slice(0, 3))
    wamkit.build(spec).set_statistics(found)


def test_other_groups_count_every_frame_once(folder: Path, tmp_path: Path) -> None:
    spec = spec_of("absolute")
    found = compute_statistics(LeRobotFolder(folder), spec, cache=tmp_path)
    samples = Samples(folder, spec)
    actions = torch.stack([samples[i]["actions"][0] for i in range(len(samples))])
    _close(found["action"], actions, slice(0, 3))
    assert found == compute_statistics(LeRobotFolder(folder), cache=tmp_path)


def test_quantiles_are_of_all_frames_and_no_mean_of_episodes(folder: Path, tmp_path: Path) -> None:
    recording = LeRobotFolder(folder)
    whole = compute_statistics(recording, cache=tmp_path)["action"].q99
    parts = [
        compute_statistics(recording, episodes=[i], cache=tmp_path)["action"].q99 for i in (0, 1)
    ]
    assert abs(whole[0] - (parts[0][0] + parts[1][0]) / 2) > 0.5


def test_they_are_computed_once_and_again_when_the_data_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wamkit.data.statistics as module

    features = {"action": Feature("float32", (1,))}
    for value in (1, 2):
        with Writer(tmp_path / "set", 10, features) as writer:
            writer.add_episode("try", [{"action": [value]}] * 3)
        first = compute_statistics(LeRobotFolder(tmp_path / "set"))
        assert first["action"].max == (value,)
        with monkeypatch.context() as context:
            context.setattr(module, "ColumnStore", None)  # nothing can be computed now
            assert compute_statistics(LeRobotFolder(tmp_path / "set")) == first
    assert not (tmp_path / "set" / "meta" / "wamkit").exists()


def _one_value(folder: Path, value: float) -> Path:
    with Writer(folder, 10, {"action": Feature("float32", (1,))}) as writer:
        writer.add_episode("try", [{"action": [value]}] * 3)
    return folder


def test_statistics_that_come_with_a_data_set_are_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others would scale the actions of the robot otherwise."""
    mine, theirs = tmp_path / "mine", tmp_path / "theirs"
    monkeypatch.setenv("WAMKIT_CACHE", str(mine))
    folder = _one_value(tmp_path / "set", 3)
    found = compute_statistics(LeRobotFolder(folder))
    monkeypatch.setenv("WAMKIT_CACHE", str(theirs))
    kept = next(file for file in mine.rglob("*") if file.is_file())
    wrong = json.loads(kept.read_text())
    wrong["statistics"]["action"]["max"] = [1000.0]
    for name in (kept.name, f"statistics-{kept.stem[:16]}.json"):
        place = folder / "meta" / "wamkit" / name
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(wrong))
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert compute_statistics(LeRobotFolder(folder)) == found
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_link_in_a_data_set_is_not_written_through(tmp_path: Path) -> None:
    folder, outside = _one_value(tmp_path / "set", 4), tmp_path / "outside"
    outside.mkdir()
    (folder / "meta" / "wamkit").symlink_to(outside)
    compute_statistics(LeRobotFolder(folder))
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"statistics": 3}', "[" * 10**5])
def test_a_damaged_file_of_the_cache_is_computed_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("WAMKIT_CACHE", str(tmp_path / "cache"))
    recording = LeRobotFolder(_one_value(tmp_path / "set", 5))
    found = compute_statistics(recording)
    (kept,) = (file for file in (tmp_path / "cache").rglob("*") if file.is_file())
    whole = kept.read_text()
    kept.write_text(text)
    assert compute_statistics(recording) == found
    assert kept.read_text() == whole


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WAMKIT_CACHE", str(tmp_path / "file"))
    recording = LeRobotFolder(_one_value(tmp_path / "set", 6))
    assert compute_statistics(recording)["action"].max == (6.0,)
    with pytest.raises((WamkitError, OSError)):
        compute_statistics(recording, cache=tmp_path / "file")


def test_tables_with_any_name_decide_the_fingerprint(tmp_path: Path) -> None:
    folder = _one_value(tmp_path / "set", 7)
    (folder / "rows").mkdir()
    (folder / "data" / "chunk-000" / "file-000.parquet").rename(folder / "rows" / "0")
    info = json.loads((folder / "meta" / "info.json").read_text())
    info["data_path"] = "rows/{file_index}"
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    before = LeRobotFolder(folder).fingerprint()
    data = bytearray((folder / "rows" / "0").read_bytes())
    data[10] ^= 1
    (folder / "rows" / "0").write_bytes(data)
    assert LeRobotFolder(folder).fingerprint() != before


def test_an_empty_column_of_the_data_is_named(folder: Path) -> None:
    from wamkit.data import Columns

    with pytest.raises(WamkitError, match="has no 'acton' for action") as problem:
        compute_statistics(LeRobotFolder(folder), columns=Columns(action="acton"))
    assert "did you mean 'action'" in problem.value.hint


def test_a_state_predicted_with_the_action_is_read_from_the_states_and_not_executed(
    folder: Path,
) -> None:
    groups = [
        {"name": "state", "size": 2, "kind": "state", "state": 1},
        {"name": "arm", "size": 3},
    ]
    raw = read(SMALL, ["state.size=3"]) | {"actions": {"chunk_size": 4, "groups": groups}}
    spec = parse(raw)
    assert check(spec) == []
    sample, plain = Samples(folder, spec)[3], Samples(folder, spec_of("absolute"))
    states = torch.stack([plain[i]["state"] for i in range(3, 7)])
    assert torch.equal(sample["actions"][:, :2], states[:, 1:])
    assert torch.equal(sample["actions"][:, 2:], plain[3]["actions"])
    found = compute_statistics(LeRobotFolder(folder), spec)
    assert found["action"].max[:2] == found["state"].max[1:]
    usual = compute_statistics(LeRobotFolder(folder), spec_of("absolute"))
    assert found["action"].max[2:] == usual["action"].max
    policy = wamkit.build(spec)
    policy.set_statistics(found)
    assert policy.act(observation(spec), seed=0).names == ("arm.0", "arm.1", "arm.2")
    wide = raw | {"state": {"size": 2}}
    assert any(c.why == "group 'state' is values 1 to 2 of a state of 2" for c in check(wide))
