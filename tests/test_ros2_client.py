"""The ROS 2 example, without ROS: its pure parts, and a file that parses and imports no rclpy."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from serving import policy

from wamkit.errors import WamkitError
from wamkit.runtime import Robot
from wamkit.serve.local import LocalPolicy

SCRIPT = Path(__file__).parent.parent / "examples" / "ros2_client.py"
NODE = runpy.run_path(str(SCRIPT))
IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


def message(image: Any, encoding: str, padding: int = 0) -> Any:
    height, width, depth = image.shape
    rows = np.pad(image.reshape(height, -1), ((0, 0), (0, padding)))
    return SimpleNamespace(
        encoding=encoding,
        height=height,
        width=width,
        step=width * depth + padding,
        data=rows.tobytes(),
    )


def test_only_main_imports_ros() -> None:
    tree = ast.parse(SCRIPT.read_text())
    top = [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not [n for n in top if "rclpy" in ast.unparse(n) or "_msgs" in ast.unparse(n)]


def test_it_needs_no_torch() -> None:
    code = f"import runpy, sys; runpy.run_path({str(SCRIPT)!r}); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("padding", [0, 3])
def test_images_are_read_as_they_are_encoded(padding: int) -> None:
    to_rgb = NODE["to_rgb"]
    alpha = np.concatenate([IMAGE[..., ::-1], np.full((4, 5, 1), 255, np.uint8)], -1)
    assert np.array_equal(to_rgb(message(IMAGE, "rgb8", padding)), IMAGE)
    assert np.array_equal(to_rgb(message(IMAGE[..., ::-1], "bgr8", padding)), IMAGE)
    assert np.array_equal(to_rgb(message(alpha, "bgra8", padding)), IMAGE)
    with pytest.raises(WamkitError, match="16UC1"):
        to_rgb(message(IMAGE, "16UC1"))


def test_joints_are_in_the_order_of_the_state() -> None:
    joints = SimpleNamespace(name=["b", "a"], position=[2.0, 1.0])
    assert NODE["to_state"](joints, ["a", "b"]).tolist() == [1.0, 2.0]
    with pytest.raises(WamkitError, match="no joint c"):
        NODE["to_state"](joints, ["a", "c"])


def test_old_messages_are_refused() -> None:
    clock = [0.0]
    latest = NODE["Latest"](0.5, lambda: clock[0])
    with pytest.raises(WamkitError, match="never came"):
        latest.get("/camera")
    latest.put("/camera", "image")
    clock[0] = 0.4
    assert latest.get("/camera") == "image"
    clock[0] = 0.6
    with pytest.raises(WamkitError, match=r"0\.60 s old"):
        latest.get("/camera")


def test_a_robot_runs_by_its_observations() -> None:
    served = LocalPolicy(policy())
    latest, executed = NODE["Latest"](1e9), list[Any]()
    latest.put("/camera", message(np.zeros((32, 32, 3), np.uint8), "bgr8"))
    robot = Robot(
        served,
        observe=lambda: NODE["observation"](
            served.metadata, latest, {"front": "/camera"}, "/joint_states", [], "pick up"
        ),
        execute=executed.append,
        stop=lambda: None,
        control_hz=200.0,
    )
    assert robot.run(steps=3).steps == 3 and len(executed) == 3


def test_the_command_line_maps_views_to_topics(capsys: Any) -> None:
    line = ["--prompt", "x", "--camera", "front=/a", "--joints", "j"]
    assert NODE["parse_args"](line).cameras == {"front": "/a"}
    with pytest.raises(SystemExit):
        NODE["parse_args"]([*line, "--camera", "wrist"])
    assert "VIEW=TOPIC" in capsys.readouterr().err
