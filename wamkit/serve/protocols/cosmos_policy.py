"""Cosmos Policy's server: `POST /act` with a map of arrays as json_numpy writes them.

A client without json_numpy sends `{"encoded": TEXT}`, where TEXT is such a map as JSON, and gets a
text in reply. The body of a reply is a map: `actions`, a list of one array for each step, and the
predicted images and value, which are null here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import WamkitError
from ..quoting import quote
from .adapter import Adapter, Call
from .json_arrays import JSON, HttpMessage, read_array, read_json, to_image, to_json

UNREAD = ("return_all_query_results", "proprio_history", "images_history")
"""Keys of a request for the planning of Cosmos Policy, which this server does not do."""


class CosmosPolicyAdapter(Adapter):
    """Messages of Cosmos Policy."""

    name, image, state = "cosmos-policy", "{view}_image", "proprio"
    path = "/act"

    def describe(self, path: str) -> tuple[bytes, str] | None:
        """Nothing is described."""
        return None

    def decode(self, message: HttpMessage) -> Call:
        """An observation."""
        try:
            found = read_json(message.body, read_array)
            if encoded := isinstance(found, dict) and "encoded" in found:
                if len(found) != 1 or not isinstance(found["encoded"], str):
                    raise WamkitError("'encoded' next to other keys", "send it alone, as text")
                found = read_json(found["encoded"], read_array)
        except (ValueError, TypeError) as error:
            raise WamkitError(f"a damaged array: {error}", "send arrays of json_numpy") from None
        if not isinstance(found, dict):
            raise WamkitError(f"a body that is {quote(found)}", "send a map of observations")
        if found.get("return_all_query_results"):
            raise WamkitError(
                "return_all_query_results is true, and there is one query", "send false"
            )
        made = {key: value for key, value in found.items() if key not in UNREAD}
        if "task_description" in made:
            made[self.robot_map.prompt] = made.pop("task_description")
        for key, _, _ in self.robot_map.images.values():
            if key in made:
                made[key] = to_image(made[key], key)
        return Call(made, context={"encoded": encoded})

    def encode(self, call: Call, reply: Mapping[str, Any]) -> tuple[bytes, str]:
        """The body and its type."""
        made = {"actions": list(reply["actions"]), "future_image_predictions": None}
        # the authors' server says value_prediction, and their client reads value_predictions
        body = to_json({**made, "value_prediction": None, "value_predictions": None})
        return (to_json(body.decode()) if call.context["encoded"] else body), JSON

    def refuse(self, call: Call | None, error: str) -> tuple[bytes, str]:
        """A map with the error."""
        return to_json({"error": error}), JSON
