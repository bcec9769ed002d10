"""Policies behind a socket in a suite: wamkit's server, and one that declares nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import rails
from test_suite import plugin, saved  # noqa: F401 (fixtures)

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

from websockets.sync.server import Server as PlainServer
from websockets.sync.server import serve

from wamkit.policy.policy import Policy
from wamkit.serve.codec import pack, unpack
from wamkit.serve.keys import read_keys
from wamkit.serve.server import Server, address_of, bind, run_in_thread

Wamkit = Callable[..., tuple[int, str, str]]
SUITE = ("--suite", "rails", "--episodes", 2, "--processes", 0, "--films", 0)


def evaluate(wamkit: Wamkit, policy: Any, out: Path, *more: Any) -> dict[str, Any]:
    code, text, err = wamkit("eval", policy, *SUITE, "--out", out, *more, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(text)
    return found


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 2),
        ({"video": {"num_frames": 3, "num_observed": 2, "frame_stride": 2}}, 2),
        (
            {
                "paradigm": {"name": "autoregressive"},
                "video": {"num_frames": 3, "frame_stride": 2},
            },
            4,
        ),
    ],
    ids=["one image", "two images", "stateful"],
)
def test_a_served_policy_does_what_it_does_here(
    wamkit: Wamkit, tmp_path: Path, changes: dict[str, Any], steps: int
) -> None:
    folder = rails.save_policy(tmp_path / "policy", **changes)
    here = evaluate(wamkit, folder, tmp_path / "here")
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(Policy.load(folder)), listener):
        host, port = address_of(listener)
        remote = evaluate(wamkit, f"ws://{host}:{port}", tmp_path / "remote")
    assert remote["settings"]["policy"]["execute_steps"] == steps
    assert remote["settings"]["policy"]["declared"]["chunk_size"] == 4
    for one, other in zip(here["per_episode"], remote["per_episode"], strict=True):
        assert (one["seed"], one["steps"]) == (other["seed"], other["steps"])
        assert one["return"] == pytest.approx(other["return"], abs=1e-3)


def test_a_server_with_keys_is_given_one_of_a_file(wamkit: Wamkit, tmp_path: Path) -> None:
    folder = rails.save_policy(tmp_path / "policy")
    keys = tmp_path / "keys.txt"
    keys.write_text("# of the lab\n\na-key-of-some-length\nanother-key-of-some-length\n")
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(Policy.load(folder), keys=read_keys(keys)), listener):
        address = "ws://{}:{}".format(*address_of(listener))
        found = evaluate(wamkit, address, tmp_path / "out", "--api-key-file", keys)
        assert found["complete"]
        texts = [(tmp_path / "out" / name).read_text() for name in ("settings.json", "eval.json")]
        assert not any("of-some-length" in text for text in texts)
        out = ("--out", tmp_path / "other")
        code, _, err = wamkit("eval", address, *SUITE, *out)
        assert code == 2 and "HTTP 401" in err and "--api-key-file FILE" in err
        code, _, err = wamkit("eval", address, *SUITE, *out, "--api-key-file", tmp_path / "none")
        assert code == 2 and "no file of API keys" in err


def test_what_does_not_fit_the_environment_is_refused_at_once(
    wamkit: Wamkit, tmp_path: Path
) -> None:
    other = rails.save_policy(
        tmp_path / "policy",
        actions={"chunk_size": 4, "control_hz": 5, "groups": [{"name": "dx", "size": 2}]},
        state={"size": 3, "normalization": "none"},
    )
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(Policy.load(other)), listener):
        host, port = address_of(listener)
        more = ("--camera-map", "side=top", "--execute-steps", 9, "--out", tmp_path / "out")
        code, _, err = wamkit("eval", f"ws://{host}:{port}", *SUITE, *more)
    assert code == 2 and "5 conflicts" in err
    assert "takes camera 'top'; the environment has side" in err
    assert "2 values, the environment takes 1" in err and "5 Hz, the environment at 10 Hz" in err
    assert "a state of 3 values, the environment returns 2" in err
    assert "9 actions of a chunk of 4" in err


@pytest.fixture
def undeclared() -> Iterator[tuple[str, list[dict[str, Any]], dict[str, Any]]]:
    """A server whose metadata is empty: its address, what it was asked, and what it replies."""
    asked: list[dict[str, Any]] = []
    reply: dict[str, Any] = {"actions": np.full((6, 1), 0.2)}

    def answer(line: Any) -> None:
        line.send(pack({}))
        for message in line:
            asked.append(unpack(message))
            line.send(pack(reply))

    server: PlainServer = serve(answer, "127.0.0.1", 0)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}", asked, reply
    server.shutdown()
    thread.join()


def test_a_server_that_declares_nothing_is_asked_with_openpis_keys(
    wamkit: Wamkit, undeclared: Any, tmp_path: Path
) -> None:
    address, asked, reply = undeclared
    found = evaluate(wamkit, address, tmp_path / "default")
    assert found["tasks"][0]["successes"] > 0
    assert all(
        request.keys() == {"observation/image", "observation/state", "prompt"} for request in asked
    )
    assert asked[0]["observation/image"].shape == (16, 16, 3)
    assert {request["prompt"] for request in asked} == set(rails.Rails.subjects.values())
    asked.clear()
    evaluate(wamkit, address, tmp_path / "mapped", "--camera-map", "cam/left=side")
    assert "cam/left" in asked[0] and "observation/image" not in asked[0]
    reply["actions"] = np.zeros((6, 7))
    code, _, err = wamkit("eval", address, *SUITE, "--out", tmp_path / "wide")
    assert code == 2 and "replies with actions of float64 [6, 7]" in err


def test_addresses_and_options_without_meaning_are_refused(wamkit: Wamkit, tmp_path: Path) -> None:
    out = ("--out", tmp_path / "out")
    code, _, err = wamkit("eval", "wss://host", *SUITE, *out)
    assert code == 2 and "write ws://HOST:PORT" in err
    code, _, err = wamkit("eval", "ws://127.0.0.1:9", *SUITE, *out, "--set", "dtype=bfloat16")
    assert code == 2 and "--set has no meaning for a server" in err and "wamkit serve" in err
