"""Clients of other protocols: what they send and expect, in the form their authors wrote down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from websockets.sync.client import connect

import wamkit
from wamkit.policy.observation import Observation
from wamkit.policy.policy import Policy
from wamkit.serve.codec import pack, unpack
from wamkit.serve.limits import Limits
from wamkit.serve.protocols import PROTOCOLS, robot_of, serve_protocol
from wamkit.serve.robot_map import RobotMap
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.testing.parity import same_values

IMAGE = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
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


@contextmanager
def line(protocol: str, robot: RobotMap | None = None, **more: Any) -> Iterator[Any]:
    with served(protocol, robot, **more) as (_, address):
        with connect("ws://{}:{}".format(*address), proxy=None, max_size=None) as made:
            yield made


def ask(made: Any, message: Any) -> Any:
    made.send(pack(message))
    answer = made.recv()
    return answer if isinstance(answer, str) else unpack(answer)


def arena(**more: Any) -> dict[str, Any]:
    return {
        "endpoint": "infer",
        "session_id": "one",
        "observation/exterior_image_0_left": IMAGE,
        "observation/joint_position": np.array(STATE),
        "observation/gripper_position": np.zeros(1),
        "prompt": WORDS,
        **more,
    }


def test_roboarena_is_greeted_with_its_configuration_and_answered_with_an_array() -> None:
    with line("roboarena", ARM) as made:
        assert unpack(made.recv()) == {
            "image_resolution": None,
            "needs_wrist_camera": False,
            "n_external_cameras": 1,
            "needs_stereo_camera": False,
            "needs_session_id": False,
            "action_space": "joint_position",
        }
        assert ask(made, {"endpoint": "reset"}) == "reset successful"
        actions = ask(made, arena(seed=3))
        same_values(actions, expected(3))
        assert "endpoint 'act'" in ask(made, {"endpoint": "act"})
        assert "has no 'prompt'" in ask(made, {"endpoint": "infer"})
        assert ask(made, arena()).shape == (8, 4)  # after an error, too


def test_starvla_gets_its_envelope() -> None:
    example = {"image": [IMAGE], "lang": WORDS, "state": np.array([STATE], np.float32)}
    payload = {"examples": [example], "do_sample": False, "use_ddim": True, "num_ddim_steps": 10}
    with line("starvla") as made:
        metadata = unpack(made.recv())
        assert metadata["action_chunk_size"] == 8
        assert metadata["action_keys"] == ["arm", "gripper"]
        pong = ask(made, {"type": "ping", "request_id": "a"})
        assert pong == {"status": "ok", "ok": True, "type": "ping", "request_id": "a"}
        reply = ask(made, {"type": "infer", "request_id": "b", "payload": payload})
        assert reply["ok"] and reply["request_id"] == "b" and reply["type"] == "inference_result"
        assert reply["data"]["actions"].shape == (1, 8, 4)
        assert ask(made, payload)["data"]["actions"].shape == (1, 8, 4)  # without an envelope
        wrong = ask(made, {"type": "infer", "payload": {"examples": [{"lang": WORDS}]}})
        assert not wrong["ok"] and "0 images" in wrong["error"]["message"]
        seeded = {"examples": [{**example, "seed": 4}]}
        same_values(ask(made, seeded)["data"]["actions"][0], expected(4))


def test_auto_tells_three_protocols_apart_by_the_first_message() -> None:
    openpi = {"observation/front": IMAGE, "observation/state": STATE, "prompt": WORDS, "seed": 1}
    examples = [{"image": [IMAGE], "lang": WORDS, "state": STATE, "seed": 1}]
    found: dict[str, Any] = {}
    with served("auto") as (_, address):
        for name, message in {
            "openpi": openpi,
            "arena": {**openpi, "endpoint": "infer", "session_id": "x"},
            "starvla": {"examples": examples},
        }.items():
            with connect("ws://{}:{}".format(*address), proxy=None, max_size=None) as made:
                greeting = unpack(made.recv())
                assert {"cameras", "action_space", "action_chunk_size"} <= greeting.keys()
                found[name] = ask(made, message)
                if name == "openpi":
                    assert "has no 'prompt'" in ask(made, {"observation/front": IMAGE})
    same_values(found["openpi"]["actions"], expected(1))
    same_values(found["arena"], expected(1))
    same_values(found["starvla"]["data"]["actions"][0], expected(1))


def test_every_protocol_can_be_chosen() -> None:
    import typing

    from wamkit.cli.serve import command

    option = typing.get_type_hints(command)["protocol"]
    assert set(typing.get_args(option)) == set(PROTOCOLS)
