"""Robot files: what a robot sends becomes what a policy reads, and back; nothing is guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from protocols import IMAGE, STATE, WORDS, expected, policy, served

from wamkit.config.spec import PolicySpec, parse, read
from wamkit.errors import WamkitError
from wamkit.serve.client import Client
from wamkit.serve.protocol import RequestHandler
from wamkit.serve.robot_map import RobotMap, known_robots, read_robot
from wamkit.testing.parity import same_values

ROOT = Path(__file__).parent.parent

ROBOT = """
control_hz = 10
prompt = "task"
ignore = ["time"]
cameras.front = { key = "images/top", layout = "CHW", rotation = 90 }
[[state]]
key = "state"
columns = [1, 2]
slice = [0, 1]
unit = "deg"
policy_unit = "rad"
[[state]]
key = "state"
columns = [0, 1]
slice = [1, 2]
sign = -1
[[actions]]
key = "gripper"
slice = [3, 4]
range = [0, 100]
policy_range = [1, -1]
[[actions]]
key = "arm"
slice = [0, 3]
unit = "mm"
policy_unit = "m"
"""


def robot_from(text: str, tmp_path: Path) -> RobotMap:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return read_robot(str(file))


def spec_for(robot: RobotMap, groups: list[dict[str, Any]] | None = None) -> PolicySpec:
    """The spec of a policy that a robot fits: its views, its state, its actions, its rate."""
    raw = read(ROOT / "examples" / "toy.toml")
    size = max(field.slice[1] for field in robot.state)
    raw["state"] = {"size": size}
    raw["action_head"] = {**raw["action_head"], "state": "token"}
    raw["cameras"] = {
        "views": [{"name": name, "size": [64, 96], "fit": "crop"} for name in robot.cameras],
        "layout": "side_by_side",
    }
    width = max(field.slice[1] for field in robot.actions)
    groups = groups or [{"name": "all", "size": width}]
    raw["actions"] = {"chunk_size": 8, "control_hz": robot.control_hz, "groups": groups}
    return parse(raw)


@pytest.mark.parametrize("name", known_robots())
def test_every_robot_file_converts_both_ways(name: str) -> None:
    robot = read_robot(name)
    bound = robot.bind(spec_for(robot))
    rng = np.random.default_rng(0)
    for vectors in (bound.state, bound.actions):
        width = sum(c.stop - c.start for c in vectors.keys.values())
        values = rng.uniform(0, 1, (5, width))
        there = vectors.to_policy(values)
        same_values(vectors.to_robot(there), np.asarray(values).tolist(), 1e-5)
        joined = vectors.join(vectors.split(values[0]))
        same_values(joined, np.asarray(values[0]).tolist(), 1e-5)
    reply = bound.to_reply({"actions": rng.uniform(0, 1, (8, bound.actions.size))})
    assert reply["actions"].shape == (8, bound.actions.size)
    request: dict[str, Any] = {bound.prompt: WORDS}
    for camera in robot.cameras.values():
        chw = camera.layout == "CHW"
        request[camera.key] = np.moveaxis(IMAGE, -1, 0) if chw else IMAGE
    request |= bound.state.split(rng.uniform(0, 1, (bound.state.size,)))
    made = bound.to_request(request)
    assert all((made[f"observation/{view}"] == IMAGE).all() for view in robot.cameras)


EXECUTED = {
    "aloha": [("actions", 6, "rad", None), ("actions", 1, "", None)] * 2,
    "cosmos_aloha": [("joints", 6, "rad", None), ("joints", 1, "", None)] * 2,
    "droid": [("joint_velocity", 7, "", (-1, 1)), ("gripper_position", 1, "", (0, 1))],
    "libero": [("pose", 6, "", None), ("gripper", 1, "", (-1, 1))],
    "roboarena": [("joint_position", 7, "rad", None), ("gripper_position", 1, "", (0, 1))],
    "so101": [("action", 5, "deg", None), ("action", 1, "", (0, 100))],
}
"""Robot -> key, size, unit and range of what its client executes, as its code has it."""


@pytest.mark.parametrize("name", known_robots())
def test_every_robot_file_declares_the_space_that_its_client_executes(name: str) -> None:
    fields = read_robot(name).actions
    found = [(f.key, f.slice[1] - f.slice[0], f.unit, f.range) for f in fields]
    assert found == EXECUTED[name]


@pytest.mark.parametrize(
    ("name", "group", "kind", "fits"),
    [
        ("droid", "joint_velocity", "absolute", True),
        ("droid", "arm", "delta", True),
        ("droid", "joint_position", "absolute", False),
        ("droid", "arm.pos", "absolute", False),
        ("droid", "arm", "relative", False),
        ("roboarena", "joint_position", "relative", True),
        ("roboarena", "arm", "relative", True),
        ("roboarena", "joint_velocity", "delta", False),
    ],
)
def test_positions_are_not_executed_as_velocities(
    name: str, group: str, kind: str, fits: bool
) -> None:
    robot = read_robot(name)
    arm = {"name": group, "size": 7, "kind": kind} | ({"state": 0} if kind == "relative" else {})
    spec = spec_for(robot, [arm, {"name": "gripper_position", "size": 1}])
    if fits:
        assert robot.bind(spec).actions.size == 8
        return
    with pytest.raises(WamkitError, match=f"the robot executes .* and '{group}' of the policy is"):
        robot.bind(spec)


def test_a_robot_file_gives_the_instruction_of_requests_without_one() -> None:
    aloha = read_robot("aloha")
    spec = spec_for(aloha)
    bound = aloha.bind(spec)
    request: dict[str, Any] = {c.key: np.moveaxis(IMAGE, -1, 0) for c in aloha.cameras.values()}
    request["state"] = np.zeros(14)
    with pytest.raises(WamkitError, match="has no 'prompt'") as caught:
        bound.to_request(request)
    assert "instruction =" in caught.value.hint
    instructed = aloha.model_copy(update={"instruction": "fold the towel"}).bind(spec)
    assert instructed.to_request(request)["prompt"] == "fold the towel"
    assert instructed.to_request({**request, "prompt": WORDS})["prompt"] == WORDS


def test_a_robot_sends_and_gets_its_own_keys_units_and_signs(tmp_path: Path) -> None:
    robot = robot_from(ROBOT, tmp_path)
    turned = np.moveaxis(np.rot90(IMAGE, -1), -1, 0)  # the file turns it back
    request = {
        "images": {"top": turned},
        "state": np.array([-STATE[1], np.rad2deg(STATE[0])]),
        "task": WORDS,
        "time": 1.0,
        "seed": 7,
    }
    with served("openpi", robot) as (_, address), Client(*address) as client:
        assert client.metadata["robot"] == "mine"
        assert client.metadata["action_keys"] == {"gripper": 1, "arm": 3}
        assert client.metadata["cameras"]["front"]["key"] == "images/top"
        actions = client.infer(request)["actions"]
        plain = expected(7)
        same_values(actions[:, 1:], 1000 * plain[:, :3])
        same_values(actions[:, 0], np.clip(50 - 50 * plain[:, 3], 0, 100))
        with pytest.raises(WamkitError) as caught:
            client.infer({**request, "depth": 1, "task": None} | {"imges": 1})
        assert "has 'depth', 'imges', which the map lacks" in str(caught.value)
        del request["images"]
        with pytest.raises(WamkitError, match="has no 'images/top'"):
            client.infer(request)


FAULTS = [
    ("control_hz = 10", "control_hz = 15", "the robot runs at 15 Hz and the policy at 10 Hz"),
    ("cameras.front", "cameras.top", "no camera for view 'front'"),
    ("slice = [3, 4]", "slice = [2, 3]", "action of the robot file has columns 0, 1, 2, 2"),
    ("columns = [1, 2]", "columns = [2, 3]", "leaves out columns before 2"),
    ("columns = [1, 2]", "columns = [0, 1]", "has column 0 twice"),
    ("columns = [1, 2]", "columns = [1, 3]", "write [begin, end] of equal lengths"),
    ('policy_unit = "rad"', 'policy_unit = "m"', "cannot be converted from 'deg' to 'm'"),
    ("range = [0, 100]\n", "", "has policy_range with sign or policy_unit, or without range"),
    ("range = [0, 100]", "range = [1, 1]", "a range of 'gripper' is empty"),
    ("rotation = 90", "rotation = 45", "rotation"),
    ("sign = -1", "sgn = -1", "sgn"),
]


@pytest.mark.parametrize(("old", "new", "fault"), FAULTS)
def test_a_file_that_does_not_fit_is_refused(
    old: str, new: str, fault: str, tmp_path: Path
) -> None:
    assert old in ROBOT
    with pytest.raises(WamkitError) as caught:
        robot_from(ROBOT.replace(old, new, 1), tmp_path).bind(policy().spec)
    assert fault in str(caught.value)


def test_a_robot_that_is_not_known_gets_a_hint() -> None:
    with pytest.raises(WamkitError, match="did you mean 'droid'"):
        read_robot("driod")


def test_keys_of_the_protocol_are_the_robots_where_its_file_names_them(tmp_path: Path) -> None:
    metadata = RequestHandler(policy(), "toy", {}).metadata()
    for ignored, kept in (("time", {"step": 3, "episode": "a"}), ("step", {"episode": "a"})):
        bound = robot_from(ROBOT.replace('"time"', f'"{ignored}"'), tmp_path)
        made = bound.bind(policy().spec)
        request = {"images/top": np.moveaxis(IMAGE, -1, 0), "state": STATE, "task": WORDS}
        found = made.to_request({**request, "step": 3, "episode": "a"})
        assert {key: found[key] for key in ("step", "episode") if key in found} == kept
        assert made.describe(metadata)["moments"] == ("step" in kept)


def test_executed_actions_come_back_in_the_robots_units(tmp_path: Path) -> None:
    bound = robot_from(ROBOT, tmp_path).bind(policy().spec)
    plain = np.random.default_rng(0).uniform(-1, 1, (5, 4))
    sent = bound.to_reply({"actions": plain})["actions"]
    request = {"images": {"top": IMAGE}, "state": STATE, "task": WORDS}
    request["images"] = {"top": np.moveaxis(IMAGE, -1, 0)}
    made = bound.to_request({**request, "executed": sent, "prefix": {"values": sent, "delay": 2}})
    same_values(made["executed"], np.asarray(plain).tolist(), 1e-5)
    same_values(made["prefix"]["values"], np.asarray(plain).tolist(), 1e-5)
    assert made["prefix"]["delay"] == 2
    with pytest.raises(WamkitError, match=r"expected actions \[N, 4\]"):
        bound.to_request({**request, "executed": sent[:, :2]})
