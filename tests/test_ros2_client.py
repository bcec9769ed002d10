"""The ROS 2 example, without ROS: its pure parts, and a file that parses and imports no rclpy."""

from __future__ import annotations

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from serving import policy

import wamkit
from wamkit.errors import WamkitError
from wamkit.runtime import Robot
from wamkit.serve.local import LocalPolicy
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.fixtures import with_overrides

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


class Ros:
    """What the node takes of ROS 2: topics of one camera and of joints, whose commands it keeps."""

    def __init__(self, joints: list[str]) -> None:
        state = SimpleNamespace(name=joints, position=[0.5] * len(joints))
        image = message(np.full((32, 32, 3), 7, np.uint8), "rgb8")
        self.messages = {"/camera": image, "/joint_states": state}
        self.commands, self.receivers, self.ended = list[Any](), dict[str, Any](), Event()

    def modules(self) -> dict[str, Any]:
        node = SimpleNamespace(
            create_subscription=lambda kind, topic, keep, qos: self.receivers.update({topic: keep}),
            create_publisher=lambda kind, topic, depth: SimpleNamespace(publish=self.publish),
            get_logger=lambda: SimpleNamespace(error=print),
        )
        ros = SimpleNamespace(
            init=lambda args: None,
            create_node=lambda name: node,
            spin=self.spin,
            try_shutdown=self.ended.set,
        )
        messages = SimpleNamespace(Image=None, JointState=None, Float64MultiArray=SimpleNamespace)
        quality = SimpleNamespace(qos_profile_sensor_data=None)
        named = {"rclpy": ros, "rclpy.qos": quality}
        return named | dict.fromkeys(("sensor_msgs.msg", "std_msgs.msg"), messages)

    def publish(self, command: Any) -> None:
        self.commands.append(command.data)

    def spin(self, node: Any) -> None:
        while not self.ended.wait(0.01):
            for topic, keep in self.receivers.items():
                keep(self.messages[topic])


@pytest.mark.parametrize("images", [1, 5])
def test_the_node_runs_policies_that_look_at_one_or_several_moments(
    images: int, monkeypatch: Any, capsys: Any
) -> None:
    chosen = policy()
    if images > 1:
        changes = f"video.num_observed={images}", f"video.num_frames={images + 8}"
        chosen = wamkit.build(with_overrides(chosen.spec, *changes))
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(chosen), listener):
        (host, port), joints = address_of(listener), list(chosen.actions.names)
        ros = Ros(joints)
        for name, module in ros.modules().items():
            monkeypatch.setitem(sys.modules, name, module)
        line = ["--host", host, "--port", str(port), "--prompt", "go", "--seconds", "0.5"]
        line += ["--fresh", "30", "--camera", "front=/camera", "--joints", *joints]
        assert NODE["main"](line) == 0, capsys.readouterr().err
    assert chosen.spec.video.num_observed == images
    assert len(ros.commands) > 1 and {len(one) for one in ros.commands} == {len(joints)}
    assert ros.commands[-1] == [0.5] * len(joints)  # holds its position


def test_the_command_line_maps_views_to_topics(capsys: Any) -> None:
    line = ["--prompt", "x", "--camera", "front=/a", "--joints", "j"]
    assert NODE["parse_args"](line).cameras == {"front": "/a"}
    with pytest.raises(SystemExit):
        NODE["parse_args"]([*line, "--camera", "wrist"])
    assert "VIEW=TOPIC" in capsys.readouterr().err
