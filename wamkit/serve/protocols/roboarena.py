"""RoboArena's protocol, and DreamZero's, an older form of it: openpi's codec with endpoints.

The greeting says what the client is to send (`PolicyServerConfig`). A request has `endpoint`, infer
or reset, and may have `session_id`; the reply to the second is a text. The reply to the first is a
map with `actions` (github.com/robo-arena/roboarena, commit 6fa329f), for DreamZero's clients the
array itself. Nothing in a request tells the two apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import WamkitError
from ..bound_robot import BoundRobot
from ..codec import pack, unpack
from ..quoting import quote
from .adapter import Adapter, Call, Message

SPACES = ("joint_position", "joint_velocity", "cartesian_position", "cartesian_velocity")
"""Action spaces of RoboArena."""


class RoboArenaAdapter(Adapter):
    """Messages of RoboArena."""

    name, robot = "roboarena", "roboarena"

    def __init__(self, metadata: Mapping[str, Any], robot: BoundRobot) -> None:
        super().__init__(metadata, robot)
        space = next(iter(robot.actions.keys), "")
        if self.name != "auto" and space not in SPACES:
            raise WamkitError(
                f"the first action of {robot.name} is {space!r}, and no action space of RoboArena",
                f"call it {', '.join(SPACES[:-1])} or {SPACES[-1]} in a file of --robot",
            )
        self.space = space

    def config(self) -> dict[str, Any]:
        """What the client is to send."""
        keys = [key for key, _, _ in self.robot_map.images.values()]
        names = [key.rpartition("/")[2] for key in keys]
        outside = {name.rpartition("_")[0] for name in names if name.startswith("exterior_image")}
        return {
            "image_resolution": None,  # the policy resizes as in training
            "needs_wrist_camera": any(name.startswith("wrist_image") for name in names),
            "n_external_cameras": len(outside),
            "needs_stereo_camera": any(name.endswith("_right") for name in names),
            "needs_session_id": bool(self.metadata["stateful"]),
            "action_space": self.space,
        }

    def greeting(self, session: Mapping[str, Any]) -> Message:
        """The configuration of the server."""
        return pack(self.config())

    def decode(self, message: Message) -> Call:
        """A request of one of the endpoints."""
        if isinstance(message, str):
            raise WamkitError("a text frame", "send binary frames of msgpack")
        found = unpack(message)
        if not isinstance(found, dict) or found.get("endpoint") not in ("infer", "reset"):
            where = found.get("endpoint") if isinstance(found, dict) else None
            raise WamkitError(
                f"a message with endpoint {quote(where)}", "send endpoint 'infer' or 'reset'"
            )
        if found.pop("endpoint") == "reset":
            return Call(reset=True)
        named = found.pop("session_id", None)
        return Call(found, session=None if named is None else str(named)[:200])

    def encode(self, call: Call, reply: Mapping[str, Any]) -> Message:
        """A map with actions [N, R], or the text after a reset."""
        return pack(self.answer(reply["actions"])) if reply else "reset successful"

    def answer(self, actions: Any) -> Any:
        """What a client gets for an observation."""
        return {"actions": actions}

    def refuse(self, call: Call | None, error: str) -> Message:
        """Clients take a text for an error."""
        return error


class DreamZeroAdapter(RoboArenaAdapter):
    """Messages of DreamZero: the reply is the array of actions."""

    name = "dreamzero"

    def answer(self, actions: Any) -> Any:
        """The actions [N, R] as they are."""
        return actions
