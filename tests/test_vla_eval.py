"""`wamkit serve --protocol vla-eval`: messages by hand, and vla-eval's own client elsewhere."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest
import rails

pytest.importorskip("websockets")
pytest.importorskip("msgpack")

import msgpack
from elsewhere import python_with
from PIL import Image
from serving import line_to

from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.serve.server import address_of, bind, run_in_thread
from wamkit.serve.vla_eval import VlaEvalServer
from wamkit.serve.vla_eval_codec import decode_payload, unpack_message
from wamkit.simulate import EnvWorker
from wamkit.simulate.policy_runner import PolicyRunner
from wamkit.simulate.rollout import evaluate
from wamkit.testing.parity import same_values

CLIENT = """
import sys, anyio, numpy as np
from vla_eval.connection import Connection

async def main():
    async with Connection(f"ws://127.0.0.1:{sys.argv[1]}") as line:
        print(line.server_info["protocol_version"], line.server_info["observation_params"])
        await line.start_episode({"task": {"name": "rails", "episode_idx": 3}})
        seen = {"images": {"side": np.zeros((16, 16, 3), np.uint8)}, "states": np.zeros(2),
                "task_description": "go to the goal"}
        for _ in range(3):
            print((await line.act(seen))["actions"].shape)
        await line.end_episode({"metrics": {"success": True}})
        try:
            await line.act({"images": {}, "task_description": "go"})
        except RuntimeError as error:
            print(error)

anyio.run(main)
"""


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    return Policy.load(rails.save_policy(tmp_path_factory.mktemp("saved") / "policy"))


@pytest.fixture
def served(policy: Policy) -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(VlaEvalServer(policy), listener):
        yield address_of(listener)


class Harness:
    """A client that speaks as vla-eval does."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.line, self.seq = line_to(address), 0

    def send(self, kind: str, payload: Any) -> None:
        self.seq += 1
        message = {"type": kind, "payload": payload, "seq": self.seq, "timestamp": 0.0}
        self.line.send(msgpack.packb(message))

    def ask(self, kind: str, payload: Any) -> tuple[str, dict[str, Any]]:
        """The type and payload of the reply."""
        self.send(kind, payload)
        found, reply, seq = unpack_message(self.line.recv())
        assert seq == self.seq
        return found, decode_payload(reply)


def array(values: Any) -> dict[str, Any]:
    values = np.asarray(values)
    named = {"data": values.tobytes(), "dtype": values.dtype.str, "shape": list(values.shape)}
    return {"__ndarray__": True, **named}


def image(pixels: Any) -> dict[str, Any]:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"__image__": True, "format": "png", "data": file.getvalue(), "shape": [16, 16, 3]}


def test_an_episode_is_the_one_of_a_simulator_here(served: Any, policy: Policy) -> None:
    from wamkit.simulate import EnvPool

    config = rails.Rails(task="never", max_steps=7)
    runner = PolicyRunner(policy, {"side": "side"}, 2, {})
    with EnvPool(config, 1, apart=False) as workers:
        (here,) = evaluate(workers, [3], runner, {}, keep=True)
    harness, worker = Harness(served), EnvWorker(config)
    assert harness.ask("hello", {})[1]["observation_params"] == {"send_state": True}
    harness.send("episode_start", {"task": {"episode_idx": 3}})
    seen = worker.reset(3)
    for frame in here.frames:
        observation = {
            "images": {"left": image(seen.images["side"])},
            "states": array(seen.state),
            "task_description": seen.instruction,
        }
        kind, reply = harness.ask("observation", observation)
        assert kind == "action" and reply["actions"].shape == (1,)
        same_values(np.asarray(reply["actions"]), np.asarray(frame.action).tolist(), 1e-4)
        seen = worker.advance(reply["actions"][None], 1).observations[1]
    harness.line.close()


def test_what_is_wrong_is_answered_and_the_connection_goes_on(served: Any) -> None:
    harness = Harness(served)
    kind, reply = harness.ask("observation", {"images": {}, "task_description": "go"})
    assert kind == "error" and "no image 'side' and no state" in reply["error"]
    assert "--camera-map side=NAME" in reply["error"]
    broken = {"images": {"side": {**array([1.0]), "shape": [5]}}, "states": array([0.0, 0.0])}
    kind, reply = harness.ask("observation", {**broken, "task_description": "go"})
    assert kind == "error" and "damaged array" in reply["error"]
    kind, reply = harness.ask("hello", {})
    assert kind == "hello" and reply["protocol_version"] == 1
    harness.line.close()


def test_http_tells_health_and_configuration(served: Any) -> None:
    url = "http://{}:{}".format(*served)
    assert json.load(urlopen(f"{url}/health")) == {"status": "ok"}
    assert json.load(urlopen(f"{url}/config"))["config"]["max_batch_size"] == 8


def test_options_that_do_not_fit_are_refused(
    policy: Policy, wamkit: Callable[..., tuple[int, str, str]]
) -> None:
    with pytest.raises(WamkitError, match="9 of a chunk of 4"):
        VlaEvalServer(policy, execute_steps=9)
    with pytest.raises(WamkitError, match="no view 'top'; it has side"):
        VlaEvalServer(policy, named={"top": "agentview"})
    code, _, err = wamkit("serve", "examples/toy.toml", "--execute-steps", 2)
    assert code == 2 and "--execute-steps is of --protocol vla-eval" in err


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with vla-eval in it."""
    return python_with(tmp_path_factory.mktemp("elsewhere"), "vla-eval==0.8.0")


@pytest.mark.skipif(sys.platform == "win32", reason="paths of environments")
def test_the_client_of_vla_eval_is_answered(served: Any, elsewhere: Path) -> None:
    command = [elsewhere, "-c", CLIENT, str(served[1])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    first, *shapes, error = done.stdout.splitlines()[:5]
    assert first == "1 {'send_state': True}" and shapes == ["(1,)"] * 3
    assert "no image 'side'" in error
