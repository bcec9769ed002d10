"""starVLA's protocol: openpi's codec, with each message in an envelope.

A request is `{type, request_id, payload}`, or the payload alone; the payload has `examples`, a list
of `{image, lang, state}`. The images of an example are those of the policy's views in their order,
and the state is that of the robot's keys in theirs: starVLA's server does not reorder them either.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import WamkitError
from ..codec import pack, unpack
from ..quoting import list_values, quote
from .adapter import Adapter, Call, Message

SAMPLING = ("do_sample", "use_ddim", "num_ddim_steps", "cfg_scale")
"""Settings of starVLA's frameworks that clients send, and that a policy here does not have."""


class StarVlaAdapter(Adapter):
    """Messages of starVLA."""

    name = "starvla"

    def greeting(self, session: Mapping[str, Any]) -> Message:
        """What the server is, by starVLA's names."""
        return pack(self.config())

    def config(self) -> dict[str, Any]:
        """Metadata of starVLA's server."""
        return {
            "env": "wamkit",
            "action_chunk_size": self.metadata["chunk_size"],
            "available_unnorm_keys": [self.metadata["policy"]],
            "default_unnorm_key": self.metadata["policy"],
            "action_keys": list(self.robot_map.actions.keys),
            "state_keys": list(self.robot_map.state.keys),
            "training_obs_image_size": None,  # images of any size are resized as in training
        }

    def decode(self, message: Message) -> Call:
        """A message of one of the types."""
        if isinstance(message, str):
            raise WamkitError("a text frame", "send binary frames of msgpack")
        found = unpack(message)
        if not isinstance(found, dict):
            raise WamkitError(f"a message that is {quote(found)}", "send a map with 'examples'")
        kind, number = found.get("type", "infer"), found.get("request_id", "default")
        context = {"type": kind, "request_id": number}
        if kind in ("ping", "reset"):
            return Call(reset=kind == "reset", context=context)
        if kind not in ("infer", "predict_action"):
            raise WamkitError(
                f"a message of type {quote(kind)}", "the types are ping, infer and reset"
            )
        return Call(self._observation(found.get("payload", found)), context=context)

    def _observation(self, payload: Any) -> dict[str, Any]:
        """The one example of a payload, as keys."""
        examples = payload.get("examples") if isinstance(payload, dict) else None
        if not isinstance(examples, list) or not all(isinstance(one, dict) for one in examples):
            raise WamkitError("a payload without 'examples'", "send examples = [{image, lang}]")
        if len(examples) != 1:
            raise WamkitError(
                f"{len(examples)} examples in a request; expected 1",
                "connect once for each robot: requests of several are computed together",
            )
        key = payload.get("unnorm_key")
        if key not in (None, self.metadata["policy"]):
            raise WamkitError(
                f"unnorm_key is {quote(key)}; the policy has {self.metadata['policy']!r}",
                "leave out unnorm_key",
            )
        known = ("examples", "unnorm_key", "type", "request_id", *SAMPLING)
        if unknown := [name for name in payload if name not in known]:
            raise WamkitError(f"the payload has {list_values(unknown)}", "leave that out")
        return self._keys(examples[0])

    def _keys(self, example: dict[str, Any]) -> dict[str, Any]:
        """An example with the keys of the robot."""
        robot, more = self.robot_map, {**example}
        images, state = more.pop("image", []), more.pop("state", None)
        images = list(images) if isinstance(images, list | tuple) else [images]
        found = {robot.prompt: more.pop("lang")} if "lang" in more else {}
        if len(images) != len(robot.images):
            raise WamkitError(
                f"the example has {len(images)} images; expected {len(robot.images)}",
                f"send those of {', '.join(robot.images)}, in this order",
            )
        for (key, _, _), image in zip(robot.images.values(), images, strict=True):
            found[key] = image
        if state is not None and robot.state.keys:
            found |= robot.state.split(self._state(state))
        return {**more, **found}

    def _state(self, found: Any) -> Any:
        """The state [D] or [1, D] of an example as [D], in the order of the robot's keys."""
        state, size = np.asarray(found), self.metadata["state"]["size"]
        state = state[0] if state.ndim == 2 and len(state) == 1 else state
        if state.shape != (size,):
            raise WamkitError(
                f"state has shape {list(state.shape)}; expected [{size}]",
                f"send {', '.join(self.robot_map.state.keys)} as one vector",
            )
        return state

    def encode(self, call: Call, reply: Mapping[str, Any]) -> Message:
        """An envelope, with actions [1, N, R] if they were asked for."""
        kind = "inference_result" if call.request is not None else call.context["type"]
        made = {"status": "ok", "ok": True, "type": kind, "request_id": call.context["request_id"]}
        return pack(made | ({"data": {"actions": reply["actions"][None]}} if reply else {}))

    def refuse(self, call: Call | None, error: str) -> Message:
        """An envelope with the error."""
        return pack(
            {
                "status": "error",
                "ok": False,
                "type": "unknown" if call is None else "inference_result",
                "request_id": "default" if call is None else call.context["request_id"],
                "error": {"message": error},
            }
        )
