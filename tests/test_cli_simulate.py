"""`wamkit collect` and `wamkit eval` as they are typed."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from wamkit.config.spec import parse
from wamkit.data import LeRobotFolder
from wamkit.policy.build import build

Wamkit = Callable[..., tuple[int, str, str]]

METAWORLD = pytest.mark.skipif(find_spec("metaworld") is None, reason="metaworld is missing")
TASK = "metaworld:button-press-topdown-v3"
PUSHT = pytest.mark.skipif(find_spec("gym_pusht") is None, reason="gym-pusht is missing")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy for PushT with random weights."""
    raw = {
        "backbone": {"name": "toy", "depth": 1, "num_heads": 2, "head_dim": 8, "patch_size": 1},
        "vae": {"name": "pixel_shuffle", "strides": [1, 16, 16]},
        "text_encoder": {"name": "bytes"},
        "action_head": {"name": "mot", "width": 16, "mlp_dim": 32, "state": "token"},
        "paradigm": {"name": "single_pass"},
        "actions": {"chunk_size": 8, "control_hz": 10, "groups": [{"name": "disk", "size": 2}]},
        "state": {"size": 2},
        "cameras": {"views": [{"name": "top", "size": [32, 32]}]},
        "video": {"num_frames": 2, "frame_stride": 8},
        "schedules": {"action": {"steps": 2}, "video": {"steps": 2}},
    }
    return build(parse(raw).fitted()).save(tmp_path_factory.mktemp("saved") / "policy")


@METAWORLD
def test_demonstrations_are_collected_gone_on_with_and_not_overwritten(
    wamkit: Wamkit, tmp_path: Path
) -> None:
    args = ("collect", TASK, "--episodes", 1, "--out", tmp_path / "d", "--size", 32)
    code, out, _ = wamkit(*args, "--processes", 1, "--json")
    found = json.loads(out)
    assert code == 0 and found["episodes"] == 1 and found["control_hz"] == 80
    recording = LeRobotFolder(tmp_path / "d")
    assert recording.episodes[0].length == found["frames"]
    assert recording.features["observation.images.corner2"].shape == (32, 32, 3)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "d").rglob("*")}
    again = json.loads(wamkit(*args, "--processes", 1, "--json")[1])
    assert again["episodes"] == again["there_already"] == 1
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "d").rglob("*")} == before
    code, _, err = wamkit(*args, "--seed", 7)
    assert code == 2 and "is there already, and not from the same command" in err
    assert "--append" in err


@PUSHT
def test_a_policy_is_evaluated_filmed_and_recorded(
    wamkit: Wamkit, saved: Path, tmp_path: Path
) -> None:
    films, data = tmp_path / "films", tmp_path / "data"
    args = ("eval", saved, "--env", "pusht", "--episodes", 2, "--env-arg", "max_steps=12")
    args = (*args, "--env-arg", "size=32", "--processes", 0, "--json")
    code, out, _ = wamkit(*args, "--record", films, "--dataset", data, "--video-format", "gif")
    found = json.loads(out)
    assert code == 0 and found["episodes"] == 2 and found["seeds"] == [1000, 1001]
    assert found["steps"] == 12 and found["execute_steps"] == 4 and found["normalized"]
    assert set(found["latency_ms"]) == {"observation", "policy", "environment"}
    assert json.loads((films / "eval.json").read_text()) == found
    assert sorted(f.name for f in films.glob("*.gif")) == ["1000_failure.gif", "1001_failure.gif"]
    assert [e.length for e in LeRobotFolder(data).episodes] == [12, 12]
    again = json.loads(wamkit(*args)[1])
    assert again["per_episode"] == found["per_episode"]


@PUSHT
def test_what_does_not_fit_is_reported_before_anything_runs(wamkit: Wamkit, saved: Path) -> None:
    args = ("eval", saved, "--env", "pusht", "--processes", 0)
    changed = ("--set", "actions.control_hz=80", "--camera-map", "top=corner", "--execute-steps", 9)
    code, _, err = wamkit(*args, *changed)
    assert code == 2 and "3 conflicts" in err
    assert "view 'top' looks for camera 'corner'" in err and "--camera-map top=top" in err
    assert "the policy acts at 80 Hz, the environment at 10 Hz" in err
    assert "9 actions of a chunk of 8" in err


@PUSHT
def test_values_without_meaning_are_refused(wamkit: Wamkit, tmp_path: Path) -> None:
    code, _, err = wamkit("eval", "nobody", "--env", "pusht", "--processes", 0)
    assert code == 2 and "no saved policy at nobody" in err and "random or expert" in err
    code, _, err = wamkit("eval", "random", "--env", "pusht", "--execute-steps", 4)
    assert code == 2 and "--execute-steps has no meaning for random" in err
    (tmp_path / "x").write_text("")
    code, _, err = wamkit("eval", "random", "--env", "pusht", "--record", tmp_path)
    assert code == 2 and "is there already" in err


@PUSHT
def test_a_baseline_is_evaluated(wamkit: Wamkit) -> None:
    args = ("--env", "pusht", "--episodes", 3, "--processes", 0, "--env-arg", "max_steps=5")
    code, out, _ = wamkit("eval", "random", *args)
    assert code == 0 and "0 of 3" in out and "95 % in [0.0%, 56.1%]" in out
    assert "1000 to 1002" in out
