"""What tests of protocols share: a policy, what it is asked, and servers of each protocol."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

import wamkit
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.serve.protocols import robot_of, serve_protocol
from wamkit.serve.robot_map import RobotMap
from wamkit.serve.server import Server, address_of, bind, run_in_thread

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
COSMOS = {"front": "primary_image"}
STATE = [0.5, -1.0]
WORDS = "pick up the cup"
ARM = RobotMap.model_validate(
    {
        "name": "arm",
        "cameras": {"front": {"key": "observation/exterior_image_0_left"}},
        "state": [{"key": "observation/joint_position", "slice": (0, 2)}],
        "actions": [
            {"key": "joint_position", "slice": (0, 3)},
            {"key": "gripper_position", "slice": (3, 4)},
        ],
        "ignore": ("observation/gripper_position",),
    }
)


@cache
def policy() -> Policy:
    return wamkit.build("examples/toy.toml", ["state.size=2", "action_head.state=token"], tiny=True)


@cache
def expected(seed: int | None = None) -> Any:
    return policy().act(Observation({"front": IMAGE}, WORDS, STATE), seed=seed).values[0].numpy()


@contextmanager
def served(protocol: str, robot: RobotMap | None = None, **more: Any) -> Iterator[Any]:
    """A server of a protocol, and its address."""
    found = robot_of(protocol, policy().spec, robot, more.pop("renamed", {}))
    listener = bind("127.0.0.1", 0)
    address = address_of(listener)
    made: Server
    if protocol == "openpi":
        made = Server(policy(), "toy", robot=found, **more)
    else:
        assert found is not None
        made = serve_protocol(protocol, found, policy(), "toy", **more)
    with run_in_thread(made, listener):
        yield made, address


def post(address: Any, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    url = "http://{}:{}{}".format(*address, path)
    sent = {"Content-Type": "application/json"}
    sent |= {key.replace("_", "-"): value for key, value in headers.items()}
    request = urllib.request.Request(url, body, sent)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
