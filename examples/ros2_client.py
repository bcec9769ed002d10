"""A ROS 2 node that moves a robot by a policy on another machine, with the client and no torch.

    wamkit serve POLICY --host 0.0.0.0                                   # on the machine with a GPU
    python ros2_client.py --host 192.168.0.7 --prompt "pick up the cup" \
      --camera front=/camera/image_raw --joints shoulder elbow wrist gripper

It runs in the Python of ROS 2 (rclpy, sensor_msgs, std_msgs; 3.12 in Jazzy; Humble's 3.10 is too
old), after `pip install --no-deps -e .` and
`pip install websockets msgpack numpy pillow pydantic` in a clone of this repository. Images come
from `sensor_msgs/Image` topics, the state from `sensor_msgs/JointState`, and commands go out as
`std_msgs/Float64MultiArray`, which ros2_control's forward_command_controller takes. The run ends
once an image or a state is older than `--fresh` seconds, and a robot without an action gets the
command to hold its position. Nobody has moved a robot with it yet.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wamkit.errors import WamkitError
from wamkit.runtime import Robot
from wamkit.serve.client import Client
from wamkit.serve.keys import read_key

CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}


def to_rgb(message: Any) -> NDArray[np.uint8]:
    """A `sensor_msgs/Image` as [height, width, 3]; rows may be padded (`step`).

    Raises WamkitError for an encoding that is no 8-bit color.
    """
    if message.encoding not in CHANNELS:
        raise WamkitError(
            f"images of {message.encoding!r}; expected {', '.join(CHANNELS)}",
            "set the encoding of the camera's driver",
        )
    depth = 4 if "a8" in message.encoding else 3
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : message.width * depth].reshape(message.height, message.width, depth)
    return np.ascontiguousarray(image[..., list(CHANNELS[message.encoding])])


def to_state(message: Any, joints: Sequence[str]) -> NDArray[np.float32]:
    """Positions of a `sensor_msgs/JointState`, in the order of `joints`.

    Raises WamkitError if one is missing.
    """
    places = dict(zip(message.name, message.position, strict=True))
    if missing := [name for name in joints if name not in places]:
        raise WamkitError(
            f"no joint {', '.join(missing)}; there are {', '.join(places)}", "see --joints"
        )
    return np.array([places[name] for name in joints], np.float32)


class Latest:
    """The newest message of each topic, from the thread that receives them."""

    def __init__(self, fresh: float, now: Callable[[], float] = time.monotonic) -> None:
        self.fresh, self._now, self._lock = fresh, now, threading.Lock()
        self._found: dict[str, tuple[float, Any]] = {}

    def put(self, topic: str, message: Any) -> None:
        """Keep a message in place of the one before."""
        with self._lock:
            self._found[topic] = self._now(), message

    def get(self, topic: str) -> Any:
        """The newest message. Raises WamkitError if there is none, or it is too old."""
        with self._lock:
            came, message = self._found.get(topic, (None, None))
        if came is None or self._now() - came > self.fresh:
            age = "never came" if came is None else f"is {self._now() - came:.2f} s old"
            raise WamkitError(f"the message of {topic} {age}", "look at `ros2 topic hz`")
        return message

    def wait(self, topics: Sequence[str], seconds: float) -> None:
        """Wait until every topic has a message. Raises WamkitError after `seconds`."""
        end = self._now() + seconds
        while missing := [topic for topic in topics if topic not in self._found]:
            if self._now() > end:
                raise WamkitError(f"no message of {', '.join(missing)}", "see `ros2 topic list`")
            time.sleep(0.05)


def observation(
    metadata: Mapping[str, Any],
    latest: Latest,
    cameras: Mapping[str, str],
    joint_topic: str,
    joints: Sequence[str],
    prompt: str,
) -> dict[str, Any]:
    """The observation of now, with the keys that the server names, and one image of each camera.

    `Robot` keeps those of the steps before, for policies that look at several moments.

    Raises WamkitError if a message is old, or if the state has another size than the policy takes.
    """
    found: dict[str, Any] = {"prompt": prompt}
    for view, about in metadata["cameras"].items():
        found[about["key"]] = to_rgb(latest.get(cameras[view]))
    state = metadata["state"]
    if state["size"]:
        found[state["key"]] = to_state(latest.get(joint_topic), joints)
        if len(joints) != state["size"]:
            raise WamkitError(
                f"{len(joints)} joints; the policy takes {state['size']} values", "see --joints"
            )
    return found


def parse_args(args: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; `cameras` maps views to topics."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--api-key-file", type=Path, help="its first key is sent to the server")
    parser.add_argument("--prompt", required=True)
    parser.add_argument("--camera", action="append", required=True, metavar="VIEW=TOPIC")
    parser.add_argument("--joints", nargs="+", required=True, help="in the order of the state")
    parser.add_argument("--joint-topic", default="/joint_states")
    parser.add_argument("--command-topic", default="/forward_position_controller/commands")
    parser.add_argument("--fresh", type=float, default=0.5, help="seconds")
    parser.add_argument("--seconds", type=float, default=None, help="of the run; no end by default")
    asked = parser.parse_args(args)
    asked.cameras = dict(pair.split("=", 1) for pair in asked.camera if "=" in pair)
    if len(asked.cameras) < len(asked.camera):
        parser.error("--camera VIEW=TOPIC, once for each view of the policy")
    return asked


def main(args: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C, or for `--seconds`."""
    asked = parse_args(args)
    import rclpy
    from rclpy.qos import qos_profile_sensor_data
    from sensor_msgs.msg import Image, JointState
    from std_msgs.msg import Float64MultiArray

    rclpy.init(args=[])
    node, latest = rclpy.create_node("wamkit_client"), Latest(asked.fresh)
    topics = dict.fromkeys(asked.cameras.values(), Image) | {asked.joint_topic: JointState}
    for topic, kind in topics.items():
        keep = lambda message, topic=topic: latest.put(topic, message)  # noqa: E731
        node.create_subscription(kind, topic, keep, qos_profile_sensor_data)
    commands = node.create_publisher(Float64MultiArray, asked.command_topic, 1)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()

    def execute(action: NDArray[np.float32]) -> None:
        latest.get(asked.joint_topic)  # no blind motion
        commands.publish(Float64MultiArray(data=[float(value) for value in action]))

    def hold() -> None:
        try:
            execute(to_state(latest.get(asked.joint_topic), asked.joints))
        except WamkitError as error:  # the controller keeps its last command
            node.get_logger().error(str(error))

    try:
        key = asked.api_key_file and read_key(asked.api_key_file)
        with Client(asked.host, asked.port, api_key=key, jpeg=90) as policy:
            unknown = set(policy.metadata["cameras"]) ^ set(asked.cameras)
            sizes = {len(policy.metadata["actions"]), len(asked.joints)}
            if unknown or len(sizes) > 1:
                raise WamkitError(
                    f"the policy has views {', '.join(policy.metadata['cameras'])} and actions "
                    f"{', '.join(policy.metadata['actions'])}",
                    "name a --camera for each view, and in --joints what each action moves",
                )
            latest.wait(list(topics), 10.0)
            robot = Robot(
                policy,
                observe=lambda: observation(
                    policy.metadata,
                    latest,
                    asked.cameras,
                    asked.joint_topic,
                    asked.joints,
                    asked.prompt,
                ),
                execute=execute,
                stop=hold,
            )
            print(robot.run(seconds=asked.seconds))
    except WamkitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
