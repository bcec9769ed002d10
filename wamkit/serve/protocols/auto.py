"""openpi, RoboArena or starVLA on one port: all greet first, with maps of the same codec.

The greeting has the keys of all three. What the first message is decides for the connection:
`endpoint` is RoboArena's, `examples` or an envelope is starVLA's, and other maps are openpi's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import WamkitError
from ..bound_robot import BoundRobot
from ..codec import pack, unpack
from ..quoting import quote
from .adapter import Adapter, Call, Message
from .roboarena import RoboArenaAdapter
from .starvla import StarVlaAdapter

TYPES = ("ping", "infer", "predict_action", "reset")


class OpenpiAdapter(Adapter):
    """Messages of openpi."""

    name = "openpi"

    def greeting(self, session: Mapping[str, Any]) -> Message:
        """The metadata of the policy."""
        return pack({**self.metadata, "session": dict(session)})

    def decode(self, message: Message) -> Call:
        """A map of observations."""
        if isinstance(message, str):
            raise WamkitError("a text frame", "send binary frames of msgpack")
        found = unpack(message)
        if not isinstance(found, dict):
            raise WamkitError(f"a request that is {quote(found)}", "send a map")
        return Call(found)

    def encode(self, call: Call, reply: Mapping[str, Any]) -> Message:
        """The reply as it is."""
        return pack(reply)

    def refuse(self, call: Call | None, error: str) -> Message:
        """Clients take a text for an error."""
        return error


class _AnyArena(RoboArenaAdapter):
    """RoboArena's messages for a robot whose action space may have any name."""

    name = "auto"


class AutoAdapter(Adapter):
    """The protocol of a connection's first message."""

    name = "auto"

    def __init__(self, metadata: Mapping[str, Any], robot: BoundRobot) -> None:
        super().__init__(metadata, robot)
        self.openpi = OpenpiAdapter(metadata, robot)
        self.arena, self.starvla = _AnyArena(metadata, robot), StarVlaAdapter(metadata, robot)
        self.chosen: Adapter | None = None

    def greeting(self, session: Mapping[str, Any]) -> Message:
        """The keys of all three."""
        greeting = {**self.arena.config(), **self.starvla.config(), **self.metadata}
        return pack({**greeting, "session": dict(session)})

    def decode(self, message: Message) -> Call:
        """Choose by the first message; decode."""
        if self.chosen is None and not isinstance(message, str):
            self.chosen = self._choose(unpack(message))
        return (self.chosen or self.openpi).decode(message)

    def _choose(self, found: Any) -> Adapter:
        if not isinstance(found, dict):
            return self.openpi
        if "endpoint" in found:
            return self.arena
        envelope = found.get("type") in TYPES and ("payload" in found or len(found) < 3)
        return self.starvla if "examples" in found or envelope else self.openpi

    def encode(self, call: Call, reply: Mapping[str, Any]) -> Any:
        """The answer in the form of the protocol."""
        return (self.chosen or self.openpi).encode(call, reply)

    def refuse(self, call: Call | None, error: str) -> Any:
        """The error in the form of the protocol."""
        return (self.chosen or self.openpi).refuse(call, error)
