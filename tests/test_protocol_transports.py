"""Protocols over HTTP and ZeroMQ: forms of their authors' codecs, limits and refusals."""

from __future__ import annotations

import base64
import io
import json
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from PIL import Image
from protocols import ARM, COSMOS, IMAGE, STATE, WORDS, expected, policy, post, remembering, served

from wamkit.errors import WamkitError
from wamkit.serve.codec import pack, unpack
from wamkit.serve.keys import ApiKeys
from wamkit.serve.limits import Limits
from wamkit.serve.protocols import make_server, robot_of
from wamkit.serve.protocols.core import decode_safely
from wamkit.serve.protocols.gr00t_codec import read_npy
from wamkit.serve.protocols.json_arrays import HttpMessage, to_json
from wamkit.serve.robot_map import RobotMap
from wamkit.testing.parity import same_values

HTTP = ("cosmos-policy", "sglang")
KEY = "a-key-of-twenty-signs"


def json_numpy(value: Any) -> Any:
    """An array as json_numpy writes it."""
    data = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": data, "dtype": value.dtype.str, "shape": list(value.shape)}


def from_json_numpy(found: Any) -> Any:
    data = base64.b64decode(found["__numpy__"])
    return np.frombuffer(data, found["dtype"]).reshape(found["shape"])


def get(address: Any, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen("http://{}:{}{}".format(*address, path), timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_cosmos_policy_acts_over_http() -> None:
    seen = {"primary_image": json_numpy(IMAGE), "proprio": json_numpy(np.array(STATE))}
    seen |= {"task_description": WORDS, "return_all_query_results": False, "seed": 2}
    with served("cosmos-policy", renamed=COSMOS) as (_, address):
        status, body = post(address, "/act", json.dumps(seen).encode())
        assert status == 200
        reply = json.loads(body)
        assert reply["value_prediction"] is None
        same_values(np.stack([from_json_numpy(a) for a in reply["actions"]]), expected(2))
        twice = json.dumps({"encoded": json.dumps(seen)}).encode()
        text = json.loads(post(address, "/act", twice)[1])
        assert json.loads(text)["actions"] == reply["actions"]
        lists = {**seen, "primary_image": IMAGE.tolist(), "proprio": STATE}
        assert json.loads(post(address, "/act", json.dumps(lists).encode())[1]) == reply
        status, body = post(address, "/act", b'{"task_description": "x"}')
        assert status == 400 and "has no 'primary_image'" in json.loads(body)["error"]
        assert post(address, "/act", b"[" * 100_000)[0] == 400
        assert post(address, "/", b"{}")[0] == 404
        assert get(address, "/healthz") == (200, b"OK\n")


def test_sglang_actions_in_json_and_msgpack() -> None:
    path, png = "/v1/actions/generations", io.BytesIO()
    Image.fromarray(IMAGE).save(png, "PNG")
    encoded = {"b64_json": base64.b64encode(png.getvalue()).decode()}
    front = {"images": {"front": encoded}, "state": STATE}
    asked = {"input": {"task": WORDS, "observation": front}, "parameters": {"seed": 5}}
    with served("sglang") as (_, address):
        metadata = json.loads(get(address, "/v1/actions/metadata")[1])
        assert metadata["input"] == {
            "image_keys": ["front"],
            "image_size": [32, 32],
            "state_dim": 2,
        }
        status, body = post(address, path, json.dumps(asked).encode())
        assert status == 200
        action = json.loads(body)["data"][0]["action"]
        assert action["shape"] == [8, 4]
        same_values(np.array(action["values"], np.float32), expected(5))
        lerobot = {"observation.images.front": IMAGE, "observation.state": np.array(STATE)}
        raw = {"input": {"task": WORDS, "observation": lerobot}, "parameters": {"seed": 5}}
        raw["runtime"] = {"response_format": "raw"}
        _, body = post(address, path, pack(raw), Content_Type="application/msgpack")
        same_values(unpack(body)["actions"], expected(5))
        steps = {**asked, "parameters": {"num_inference_steps": 5}}
        status, body = post(address, path, json.dumps(steps).encode())
        assert status == 400 and "num_inference_steps" in json.loads(body)["error"]["message"]


def test_sessions_of_http_are_apart() -> None:
    """Each keeps its episode, of which only the first request has one image."""
    (view,) = remembering().spec.cameras.views

    def status(address: Any, session: str, **more: Any) -> int:
        seen = {"images": {view.name: IMAGE.tolist()}, "session_id": session, **more}
        seen["state"] = [0.0] * remembering().spec.state.size
        body = {"input": {"task": WORDS, "observation": seen}}
        return post(address, "/v1/actions/generations", json.dumps(body).encode())[0]

    with served("sglang", acting=remembering()) as (_, address):
        assert status(address, "a") == status(address, "b") == 200
        assert status(address, "a") == 400
        assert status(address, "a", reset=True) == 200


def test_the_request_in_progress_is_answered_at_shutdown() -> None:
    begun, go = threading.Event(), threading.Event()
    seen = {"primary_image": json_numpy(IMAGE), "proprio": STATE, "task_description": WORDS}
    with ThreadPoolExecutor(1) as thread:
        with served("cosmos-policy", renamed=COSMOS) as (server, address):
            compute = server.worker.compute

            def slow(batch: Any) -> Any:
                begun.set()
                go.wait(60)
                return compute(batch)

            server.worker.compute = slow
            answer = thread.submit(post, address, "/act", json.dumps(seen).encode())
            assert begun.wait(60)
            threading.Timer(0.2, go.set).start()
        status, body = answer.result(60)
    assert status == 200 and len(json.loads(body)["actions"]) == 8


def test_http_has_limits_and_keys() -> None:
    settings = {"limits": Limits(message=1000), "keys": ApiKeys([KEY])}
    with served("cosmos-policy", renamed=COSMOS, **settings) as (_, address):
        assert post(address, "/act", b"{}")[0] == 401
        auth = f"Api-Key {KEY}"
        assert post(address, "/act", b"{}", Authorization=auth)[0] == 400
        assert post(address, "/act", b"{}", Authorization=f"Bearer {KEY}")[0] == 400
        assert post(address, "/act", b" " * 1001, Authorization=auth)[0] == 413
        assert post(address, "/act", b"{}", Authorization=auth, Origin="http://x")[0] == 403


def npy(value: Any) -> dict[str, Any]:
    """An array as GR00T N1.6 writes it."""
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stream.getvalue()}


def nd(value: Any) -> dict[bytes, Any]:
    """An array as msgpack-numpy, and with it GR00T N1.7, writes it."""
    found = {b"nd": True, b"type": value.dtype.str, b"kind": b"", b"shape": value.shape}
    return {**found, b"data": value.tobytes()}


def from_nd(found: dict[Any, Any]) -> Any:
    return np.ndarray(buffer=found[b"data"], dtype=found[b"type"], shape=found[b"shape"])


ROBOT = RobotMap.model_validate(
    {
        "cameras": {"front": {"key": "video/front"}},
        "state": [
            {"key": "state/gripper", "slice": (1, 2)},
            {"key": "state/arm", "slice": (0, 1)},
        ],
        "actions": [{"key": "arm", "slice": (0, 3)}, {"key": "gripper", "slice": (3, 4)}],
    }
)


@pytest.mark.parametrize(("form", "back"), [(npy, None), (nd, from_nd)])
def test_gr00t_acts_over_zeromq_in_both_forms(form: Any, back: Any) -> None:
    zmq = pytest.importorskip("zmq")
    seen = {
        "video": {"front": form(IMAGE[None, None])},
        "state": {
            "arm": form(np.array([[[9.0], [STATE[0]]]], np.float32)),
            "gripper": form(np.array([[[STATE[1]]]], np.float32)),
        },
        "language": {"annotation.human.task_description": [[WORDS]]},
    }
    with (
        served("gr00t", ROBOT, keys=ApiKeys([KEY])) as (_, address),
        zmq.Context() as context,
        context.socket(zmq.REQ) as line,
    ):
        line.setsockopt(zmq.LINGER, 0)
        line.setsockopt(zmq.RCVTIMEO, 60_000)
        line.connect("tcp://{}:{}".format(*address))

        def ask(endpoint: str, **data: Any) -> Any:
            line.send(msgpack.packb({"endpoint": endpoint, "api_token": KEY, "data": data}))
            return msgpack.unpackb(line.recv(), raw=False)

        assert ask("ping") == {"status": "ok", "message": "Server is running"}
        assert ask("reset", options=None) == {}
        config = ask("get_modality_config")
        assert config["action"]["modality_keys"] == ["arm", "gripper"]
        actions, info = ask("get_action", observation=seen, options=None)
        assert info == {}
        arm = back(actions["arm"]) if back else np.load(io.BytesIO(actions["arm"]["as_npy"]))
        assert arm.shape == (1, 8, 3) and arm.dtype == np.float32
        assert "kill" in ask("kill")["error"]
        wrong = {**seen, "state": {"arm": form(np.zeros((1, 1, 1)))}}
        assert "has no 'state/gripper'" in ask("get_action", observation=wrong)["error"]
        line.send(msgpack.packb({"endpoint": "ping"}))
        assert "api_token" in msgpack.unpackb(line.recv())["error"]
        line.send(b"\xc1")
        assert "error" in msgpack.unpackb(line.recv())


def test_arrays_of_np_save_are_data_of_the_stated_size() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="an array of object"):
        read_npy(stream.getvalue())
    whole = npy(np.asfortranarray(IMAGE[:, :, 0]))["as_npy"]
    assert (read_npy(whole) == IMAGE[:, :, 0]).all()
    with pytest.raises(ValueError, match="bytes for an array"):
        read_npy(whole.replace(b"48)", b"99)"))
    with pytest.raises(ValueError, match="bytes for an array"):
        read_npy(whole[:-1])


ODD: list[Any] = [None, 1, [], "x", {}, {"a": {}}, IMAGE, {"seed": IMAGE}]
PLACES = [
    "endpoint",
    "type",
    "payload",
    "request_id",
    "examples",
    "data",
    "observation",
    "input",
    "parameters",
    "runtime",
    "images",
    "state",
    "language",
    "video",
    "encoded",
    "task_description",
    "session_id",
    "api_token",
    "unnorm_key",
    "prompt",
    "task",
]


@pytest.mark.parametrize("protocol", ["auto", "roboarena", "dreamzero", "starvla", "gr00t", *HTTP])
def test_messages_of_any_form_are_refused_and_never_a_bug(protocol: str) -> None:
    robot = ARM if protocol in ("roboarena", "dreamzero") else None
    found = robot_of(protocol, policy().spec, robot, {})
    server: Any = make_server(protocol, [policy(), "toy"], found)
    forms = [*ODD, *({key: odd} for key in PLACES for odd in ODD)]
    forms += [{"endpoint": "get_action", "data": {"observation": one}} for one in forms[8:]]
    forms += [{"endpoint": "infer", **one} for one in forms[8:] if isinstance(one, dict)]
    forms += [{"examples": [one]} for one in forms] + [{"input": one} for one in forms]
    for form in forms:
        adapter, body = server.make_adapter(), pack(form)
        message = HttpMessage(body, "application/msgpack") if protocol in HTTP else body
        if protocol == "cosmos-policy":
            message = HttpMessage(to_json(form))
        try:
            call = decode_safely(adapter, message)
            if call.request is None:
                adapter.encode(call, {})
            else:
                server.robot.to_request(call.request)
        except WamkitError as error:
            adapter.refuse(None, str(error))


def test_a_robot_that_does_not_fit_is_refused_before_serving() -> None:
    with pytest.raises(WamkitError, match="no action space of RoboArena"):
        robot = ARM.model_copy(update={"actions": ROBOT.actions})
        with served("roboarena", robot):
            pass
