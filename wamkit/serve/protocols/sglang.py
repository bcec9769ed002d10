"""SGLang's action API: `POST /v1/actions/generations`, in JSON or msgpack.

An observation has `images`, a map by camera, and `state`; keys of a robot are `images/NAME` and
`state`. LeRobot's keys, `observation.images.NAME` and `observation.state`, are taken, too.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import WamkitError
from ..codec import pack, unpack
from ..fields import PROMPT, RESET, SEED
from ..quoting import list_values, quote
from .adapter import Adapter, Call
from .json_arrays import JSON, MSGPACK, HttpMessage, from_base64, read_json, to_image, to_json

UNREAD = ("metadata", "step_id", "session_revision")
"""Keys of an observation that clients add for their own books."""
LEROBOT = "observation."


class SglangAdapter(Adapter):
    """Messages of SGLang's action API."""

    name, image, state = "sglang", "images/{view}", "state"
    path = "/v1/actions/generations"

    def describe(self, path: str) -> tuple[bytes, str] | None:
        """What the policy takes and gives."""
        if path != "/v1/actions/metadata":
            return None
        cameras = list(self.metadata["cameras"].values())
        found = {
            "object": "action.metadata",
            "model": self.metadata["policy"],
            "policy_family": "wamkit",
            "input": {
                "image_keys": [_camera(c["key"]) for c in cameras],
                "image_size": cameras[0]["size"],
                "state_dim": self.metadata["state"]["size"],
            },
            "output": {
                "action_type": "continuous",
                "action_horizon": self.metadata["chunk_size"],
                "action_dim": len(self.metadata["actions"]),
                "dtype": "float32",
            },
            "capabilities": {"batch_inputs": False, "multiple_candidates": False},
        }
        return to_json(found), JSON

    def decode(self, message: HttpMessage) -> Call:
        """A request for a chunk."""
        packed = MSGPACK in message.content_type.lower()
        found = unpack(message.body) if packed else read_json(message.body)
        if not isinstance(found, dict):
            raise WamkitError(f"a body that is {quote(found)}", "send a map with 'input'")
        given = _table(found, "input") if "input" in found else found
        seen = {**_table(given, "observation")} if "observation" in given else {**given}
        if "observation" in given:
            seen |= {key: given[key] for key in ("images", "state", "noise") if key in given}
        runtime, wanted = _table(found, "runtime"), _table(found, "parameters")
        if "noise" in seen or f"{LEROBOT}noise" in seen:
            raise WamkitError("an observation with noise", "send parameters.seed instead")
        self._expect_parameters(wanted)
        prompt = next((g[k] for g in (given, seen) for k in ("task", PROMPT) if k in g), None)
        session = seen.pop("session_id", None)
        made = self._keys(seen)
        if prompt is not None:
            made[self.robot_map.prompt] = prompt
        if SEED in wanted:
            made[SEED] = wanted[SEED]
        binary = packed or MSGPACK in message.accept.lower()
        as_list = runtime.get("output_format", "numpy" if binary else "list") == "list"
        context = {"binary": binary, "list": as_list or not binary}
        context["raw"] = runtime.get("response_format") == "raw"
        named = None if session is None else str(session)[:200]
        return Call(made, bool(made.pop(RESET, False)), named, context=context)

    def _expect_parameters(self, wanted: Mapping[str, Any]) -> None:
        """Refuse parameters that the policy does not have, or has another value of."""
        fixed = {"action_horizon": self.metadata["chunk_size"]}
        fixed |= {"action_dim": len(self.metadata["actions"])}
        wrong = [key for key, value in wanted.items() if key != SEED and fixed.get(key) != value]
        if wrong:
            raise WamkitError(
                f"parameters has {list_values(wrong)} that the policy does not take",
                f"leave them out: {fixed}, and the rest is what `wamkit serve` was started with",
            )

    def _keys(self, seen: Mapping[str, Any]) -> dict[str, Any]:
        """An observation with the keys of a robot, its images and state decoded."""
        found: dict[str, Any] = {}
        for key, value in seen.items():
            name = key.removeprefix(LEROBOT)
            if name == "images" and isinstance(value, dict):
                found |= {self._spell(f"images.{k}"): _image(k, v) for k, v in value.items()}
            elif name.startswith("images."):
                camera = name.removeprefix("images.")
                found[self._spell(name)] = _image(camera, value)
            elif name == "state":
                found[self._spell(name)] = _values(value) if isinstance(value, dict) else value
            elif key not in (*UNREAD, "task", PROMPT, "model", "runtime", "parameters"):
                found[key] = value
        return found

    def _spell(self, name: str) -> str:
        """The key of a robot for `images.NAME` or `state`: as LeRobot's data has it, or short."""
        robot = self.robot_map
        lerobot = f"{LEROBOT}{name}"
        known = {*robot.wanted, *robot.unread}
        return lerobot if lerobot in known else name.replace("images.", "images/", 1)

    def encode(self, call: Call, reply: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body and its type."""
        actions = reply["actions"]
        values = actions.tolist() if call.context["list"] else actions
        timings = {**reply["policy_timing"], **reply["server_timing"]}
        made: dict[str, Any] = {"actions": values, "timings": timings}
        if not call.context["raw"]:
            action = {"type": "continuous", "dtype": "float32", "shape": list(actions.shape)}
            one = {"index": 0, "input_index": 0, "candidate_index": 0}
            made = {
                "id": f"act_{uuid.uuid4().hex}",
                "object": "action.generation",
                "created": int(time.time()),
                "model": self.metadata["policy"],
                "data": [{**one, "action": {**action, "values": values}}],
                "usage": {"action_horizon": len(actions), "action_dim": actions.shape[1]},
                "timings": timings,
            }
        return (pack(made), MSGPACK) if call.context["binary"] else (to_json(made), JSON)

    def refuse(self, call: Call | None, error: str) -> tuple[bytes, str]:
        """An error as OpenAI's API writes it."""
        return to_json({"error": {"message": error, "type": "invalid_request_error"}}), JSON


def _camera(key: str) -> str:
    return key.removeprefix(f"{LEROBOT}images.").removeprefix("images/")


def _table(found: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = found.get(key) or {}
    if not isinstance(value, dict):
        raise WamkitError(f"{key!r} is {quote(value)}", "send a map")
    return value


def _image(key: str, found: Any) -> Any:
    """An image: a file in base64, an array with its values, or a list."""
    if not isinstance(found, dict):
        return to_image(found, key)
    text = found.get("b64_json") or found.get("base64")
    if text is None:
        return to_image(_values(found).tolist(), key)
    try:
        return from_base64(text.partition(",")[2] if str(text).startswith("data:") else text)
    except ValueError as error:
        raise WamkitError(f"image {key!r} is damaged: {error}", "send PNG or JPEG") from None


def _values(found: Mapping[str, Any]) -> Any:
    """An array of `values` or `data`, with `shape` if it is there."""
    try:
        array = np.asarray(found.get("values", found.get("data")))
        shape = found.get("shape")
        return array if shape is None else array.reshape([int(n) for n in shape])
    except (TypeError, ValueError) as error:
        raise WamkitError(f"a damaged array: {error}", "send values and shape") from None
