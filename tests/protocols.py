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
from wamkit.serve.protocols import make_server, robot_of
from wamkit.serve.robot_map import RobotMap
from wamkit.serve.server import address_of, bind, run_in_thread
from wamkit.testing.fixtures import spec_with, with_overrides

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
def remembering() -> Policy:
    """A policy that goes through an episode block by block."""
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    return wamkit.build(with_overrides(spec_with(**names)))


@cache
def expected(seed: int | None = None) -> Any:
    return policy().act(Observation({"front": IMAGE}, WORDS, STATE), seed=seed).values[0].numpy()


@contextmanager
def served(protocol: str, robot: RobotMap | None = None, **more: Any) -> Iterator[Any]:
    """A server of a protocol, and its address; `acting`: of another policy than the first."""
    acting: Policy = more.pop("acting", None) or policy()
    found = robot_of(protocol, acting.spec, robot, more.pop("renamed", {}))
    listener = bind("127.0.0.1", 0)
    address = address_of(listener)
    args = [acting, "toy", {}, None, more.pop("limits", None), more.pop("keys", None)]
    made = make_server(protocol, args, found, **more)
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
