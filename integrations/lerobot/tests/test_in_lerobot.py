"""The plugin in LeRobot's own programs, in an environment of its own (README.md says how)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

import wamkit
from wamkit.config.spec import parse, read
from wamkit.data import LeRobotFolder, compute_statistics
from wamkit.testing.dataset import record

HERE = Path(__file__).parent
PYTHON = os.environ.get("LEROBOT_PYTHON")
SPEC = """
backbone.name = "toy"
vae = { name = "pixel_shuffle", strides = [4, 8, 8] }
text_encoder.name = "bytes"
action_head = { name = "mot", width = 64, mlp_dim = 256, state = "token" }
paradigm.name = "single_pass"
actions = { chunk_size = 8, control_hz = 10, groups = [{ name = "target", size = 2 }] }
state.size = 2
cameras.views = [{ name = "top", size = [32, 32] }]
video = { num_frames = 9, frame_stride = 1 }
schedules.action.steps = 3
"""


def has_plugin() -> bool:
    """Whether LEROBOT_PYTHON has LeRobot and the plugin."""
    if PYTHON is None:
        return False
    code = "import lerobot, lerobot_policy_wamkit, gym_pusht"
    return subprocess.run([PYTHON, "-c", code], capture_output=True).returncode == 0


@pytest.fixture(scope="module")
def found(tmp_path_factory: Any) -> dict[str, Any]:
    if not has_plugin():
        pytest.skip("LEROBOT_PYTHON has no LeRobot with the plugin; see integrations/lerobot")
    assert PYTHON is not None
    home: Path = tmp_path_factory.mktemp("lerobot")
    (home / "spec.toml").write_text(SPEC)
    spec = parse(read(home / "spec.toml"))
    record(home / "data", spec, image_format="image", size=(32, 32))
    policy = wamkit.build(home / "spec.toml")
    policy.set_statistics(compute_statistics(LeRobotFolder(home / "data"), spec))
    policy.save(home / "saved")
    log = home / "log.txt"
    with log.open("w") as errors:
        command = [PYTHON, str(HERE / "in_lerobot.py"), str(home)]
        done = subprocess.run(
            command,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(home / "hub")},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=home,
        )
    assert done.returncode == 0, log.read_text()[-3000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_it_is_found_and_folders_are_made_once(found: dict[str, Any]) -> None:
    assert found["types"] and found["converted"] == 0 and found["again"] == 1


def test_training_samples_are_those_of_wamkit(found: dict[str, Any]) -> None:
    assert found["same"] == dict.fromkeys(found["same"], True)
    assert found["loss"] > 0 and found["parts"] == ["action", "video"]


def test_actions_are_those_of_wamkit_in_every_environment(found: dict[str, Any]) -> None:
    assert found["difference"] < 1e-5 and found["shape"] == [2, 2]


def test_a_policy_that_remembers_is_shown_every_image(found: dict[str, Any]) -> None:
    assert found["memory"] < 1e-5 and not found["memory_rtc"]


def test_chunks_continue_what_is_executed_meanwhile(found: dict[str, Any]) -> None:
    assert found["rtc"] and found["held"] < 1e-5


def test_what_does_not_fit_is_refused(found: dict[str, Any]) -> None:
    refused = found["refused"]
    assert "--policy.source" in refused["no policy"]
    for part in ("observation.images.top", "observation.state", "7 values"):
        assert part in refused["features"]


def test_it_trains_and_is_saved_in_wamkits_format(found: dict[str, Any]) -> None:
    assert {"policy", "config.json", "train_config.json"} <= set(found["files"])
    assert found["learned"] and found["statistics"] == ["action", "state"]


def test_it_is_evaluated_in_environments_of_lerobot(found: dict[str, Any]) -> None:
    assert found["episodes"] == {"path": 2, "type": 2}


def test_a_robot_of_lerobot_executes_its_actions(found: dict[str, Any]) -> None:
    assert found["executed"]["sync"] > 0 and found["executed"]["rtc"] > 0
