"""Clients of other protocols: what they send and expect, in the form their authors wrote down."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from protocols import ARM, IMAGE, STATE, WORDS, expected, remembering, served
from websockets.sync.client import connect

from wamkit.cli.serve import command
from wamkit.serve.codec import pack, unpack
from wamkit.serve.protocols import PROTOCOLS
from wamkit.serve.robot_map import RobotMap
from wamkit.testing.parity import same_values


@contextmanager
def line(protocol: str, robot: RobotMap | None = None, **more: Any) -> Iterator[Any]:
    with (
        served(protocol, robot, **more) as (_, address),
        connect("ws://{}:{}".format(*address), proxy=None, max_size=None) as made,
    ):
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


@pytest.mark.parametrize("protocol", ["roboarena", "dreamzero"])
def test_roboarena_is_greeted_with_its_configuration_and_answered_as_its_clients_expect(
    protocol: str,
) -> None:
    def actions_of(answer: Any) -> Any:
        return answer["actions"] if protocol == "roboarena" else answer

    with line(protocol, ARM) as made:
        assert unpack(made.recv(decode=False)) == {
            "image_resolution": None,
            "needs_wrist_camera": False,
            "n_external_cameras": 1,
            "needs_stereo_camera": False,
            "needs_session_id": False,
            "action_space": "joint_position",
        }
        assert ask(made, {"endpoint": "reset"}) == "reset successful"
        same_values(actions_of(ask(made, arena(seed=3))), expected(3))
        assert "endpoint 'act'" in ask(made, {"endpoint": "act"})
        assert "has no 'prompt'" in ask(made, {"endpoint": "infer"})
        assert actions_of(ask(made, arena())).shape == (8, 4)  # after an error, too


def test_starvla_gets_its_envelope() -> None:
    example = {"image": [IMAGE], "lang": WORDS, "state": np.array([STATE], np.float32)}
    payload = {"examples": [example], "do_sample": False, "use_ddim": True, "num_ddim_steps": 10}
    with line("starvla") as made:
        metadata = unpack(made.recv(decode=False))
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
                greeting = unpack(made.recv(decode=False))
                assert {"cameras", "action_space", "action_chunk_size"} <= greeting.keys()
                found[name] = ask(made, message)
                if name == "openpi":
                    assert "has no 'prompt'" in ask(made, {"observation/front": IMAGE})
    same_values(found["openpi"]["actions"], expected(1))
    same_values(found["arena"]["actions"], expected(1))
    same_values(found["starvla"]["data"]["actions"][0], expected(1))


def test_another_session_or_a_reset_begins_an_episode() -> None:
    """A policy with memory takes one image at the beginning of an episode, and later more."""
    (view,) = remembering().spec.cameras.views
    first = {"endpoint": "infer", f"observation/{view.name}": IMAGE, "prompt": WORDS}
    first["observation/state"] = np.zeros(remembering().spec.state.size)
    with line("auto", acting=remembering()) as made:
        made.recv()
        assert not isinstance(ask(made, {**first, "session_id": "a"}), str)
        assert "send 2 images, oldest first" in ask(made, {**first, "session_id": "a"})
        assert not isinstance(ask(made, {**first, "session_id": "b"}), str)
        assert ask(made, {"endpoint": "reset"}) == "reset successful"
        assert not isinstance(ask(made, {**first, "session_id": "b"}), str)


def test_every_protocol_can_be_chosen() -> None:
    option = typing.get_type_hints(command)["protocol"]
    assert set(typing.get_args(option)) == set(PROTOCOLS)
