"""The protocol of Isaac GR00T's policy server: an endpoint and its data, with arrays in msgpack.

An observation is a map of `video`, `state` and `language`, each a map by key; keys of a robot are
`video/NAME` and `state/NAME`. The instruction is the one entry of `language`. A reply has the
actions of each key, [1, N, size], and a map of information.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...errors import WamkitError
from ..quoting import list_values, quote
from .adapter import Adapter, Call
from .gr00t_codec import NPY, pack_gr00t, unpack_gr00t

ENDPOINTS = ("ping", "get_action", "reset", "get_modality_config", "kill")
MODALITIES = ("video", "state", "language")


class Gr00tAdapter(Adapter):
    """Messages of GR00T."""

    name, image, state = "gr00t", "video/{view}", "state/state"

    def decode(self, message: bytes) -> Call:
        """A request of one of the endpoints."""
        found, form = unpack_gr00t(message)
        endpoint = found.get("endpoint", "get_action") if isinstance(found, dict) else None
        if endpoint not in ENDPOINTS or endpoint == "kill":
            hint = "stop the server by Ctrl-C" if endpoint == "kill" else ", ".join(ENDPOINTS[:-1])
            raise WamkitError(f"a message with endpoint {quote(endpoint)}", f"allowed: {hint}")
        context = {"endpoint": endpoint, "form": form}
        call = Call(reset=endpoint == "reset", api_key=_text(found.get("api_token")))
        if endpoint == "get_action":
            data = found.get("data")
            seen = data.get("observation", data) if isinstance(data, dict) else None
            call.request, context["flat"] = self._observation(seen)
        call.context = context
        return call

    def _observation(self, seen: Any) -> tuple[dict[str, Any], bool]:
        """An observation with a robot's keys, and whether it was flat: `video.NAME`."""
        if not isinstance(seen, dict) or not seen:
            raise WamkitError(
                f"an observation that is {quote(seen)}", f"send a map of {', '.join(MODALITIES)}"
            )
        flat = not any(isinstance(value, dict) for value in seen.values())
        if flat:
            seen = _nest(seen)
        if unknown := [key for key in seen if key not in MODALITIES]:
            raise WamkitError(
                f"the observation has {list_values(unknown)}",
                f"an observation of GR00T is a map of {', '.join(MODALITIES)}",
            )
        newest = self.metadata["num_images"] == 1 and not self.metadata["stateful"]
        made = {f"video/{key}": _clip(key, v, newest) for key, v in _part(seen, "video").items()}
        made |= {f"state/{key}": _newest(key, v) for key, v in _part(seen, "state").items()}
        language = _part(seen, "language")
        if len(language) > 1:
            raise WamkitError(
                f"the observation has the instructions {list_values(language)}", "send one of them"
            )
        for value in language.values():
            while isinstance(value, list | tuple | np.ndarray) and len(value) == 1:
                value = value[0]
            made[self.robot_map.prompt] = str(value) if isinstance(value, np.str_) else value
        return made, flat

    def encode(self, call: Call, reply: Mapping[str, Any]) -> bytes:
        """The result of an endpoint, with arrays in the form of the request."""
        endpoint, form = call.context["endpoint"], call.context["form"]
        if endpoint == "ping":
            return pack_gr00t({"status": "ok", "message": "Server is running"}, form)
        if endpoint == "get_modality_config":
            return pack_gr00t(self._config(), form)
        if not reply:
            return pack_gr00t({}, form)
        before = "action." if call.context["flat"] else ""
        actions = self.robot_map.actions.split(reply["actions"])
        made = {f"{before}{key}": np.ascontiguousarray(v[None]) for key, v in actions.items()}
        return pack_gr00t([made, {}], form)

    def _config(self) -> dict[str, Any]:
        """Keys of every modality, as plain maps."""
        steps = list(self.metadata["image_steps"])
        keys = {
            "video": [_after(key) for key, _, _ in self.robot_map.images.values()],
            "state": [_after(key) for key in self.robot_map.state.keys],
            "action": list(self.robot_map.actions.keys),
        }
        deltas = {"video": steps, "state": [0], "action": list(range(self.metadata["chunk_size"]))}
        return {
            name: {"delta_indices": deltas[name], "modality_keys": found}
            for name, found in keys.items()
        }

    def refuse(self, call: Call | None, error: str) -> bytes:
        """A map with the error, which clients raise."""
        return pack_gr00t({"error": error}, NPY if call is None else call.context["form"])


def _nest(seen: Mapping[Any, Any]) -> dict[str, dict[str, Any]]:
    """An observation with keys such as `video.front` and `annotation.TASK`, in maps."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in seen.items():
        kind, _, name = str(key).partition(".")
        if kind == "annotation":
            kind, name = "language", str(key)
        found.setdefault(kind, {})[name] = value
    return found


def _part(seen: Mapping[str, Any], name: str) -> dict[str, Any]:
    found = seen.get(name, {})
    if not isinstance(found, dict):
        raise WamkitError(f"{name!r} is {quote(found)}", "send a map by key")
    return found


def _clip(key: str, found: Any, newest: bool) -> Any:
    """Images [1, T, height, width, 3] of a camera without the batch; only the newest if wanted."""
    if isinstance(found, np.ndarray) and found.ndim == 5:
        if len(found) != 1:
            raise WamkitError(f"video {key!r} is {quote(found)}", "send one robot a request")
        found = found[0]
    if isinstance(found, np.ndarray) and found.ndim == 4 and len(found):
        return found[-1] if newest or len(found) == 1 else found
    return found


def _newest(key: str, found: Any) -> Any:
    """State [1, T, size] of one key as its newest values."""
    found = np.asarray(found)
    if found.ndim == 3 and len(found) != 1:
        raise WamkitError(f"state {key!r} is {quote(found)}", "send one robot a request")
    return (
        found[(*[-1] * (found.ndim - 1), slice(None))] if found.ndim > 1 and found.size else found
    )


def _after(key: str) -> str:
    return key.partition("/")[2] or key


def _text(found: Any) -> str:
    return found if isinstance(found, str) else ""
