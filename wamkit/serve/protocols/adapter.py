"""What an adapter of a protocol does: decode messages, encode replies and errors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..bound_robot import BoundRobot

Message = str | bytes


@dataclass
class Call:
    """What a message asks for."""

    request: dict[str, Any] | None = None
    """An observation with the robot's keys; None if no actions are wanted."""
    reset: bool = False
    """True if a new episode begins, before this observation or with the next one."""
    session: str | None = None
    """Name of the episode or session, where the protocol has one; another one is a reset."""
    api_key: str = ""
    """The key of the client, where the protocol has it in messages."""
    context: dict[str, Any] = field(default_factory=dict)
    """What the adapter needs to answer in the client's form."""


class Adapter(ABC):
    """One protocol. `metadata` is that of the server, `robot` its map.

    Methods run in threads of their own and share no state, except in `AutoAdapter`, of which each
    connection has its own.
    """

    name: ClassVar[str]
    image: ClassVar[str] = "observation/{view}"
    """Key of a view's image without a robot file."""
    state: ClassVar[str] = "observation/state"
    """Key of the state without a robot file."""
    robot: ClassVar[str] = ""
    """Robot file that the protocol stands for, if it does."""

    def __init__(self, metadata: Mapping[str, Any], robot: BoundRobot) -> None:
        self.metadata, self.robot_map = metadata, robot

    def greeting(self, session: Mapping[str, Any]) -> Message | None:
        """The first message of the server, if there is one."""
        return None

    @abstractmethod
    def decode(self, message: Any) -> Call:
        """Decode a message. Raises WamkitError, in answer to which `refuse` is sent."""

    @abstractmethod
    def encode(self, call: Call, reply: Mapping[str, Any]) -> Any:
        """The answer: `reply` has `actions` [N, R], or is empty if no actions were asked for."""

    @abstractmethod
    def refuse(self, call: Call | None, error: str) -> Any:
        """The answer to a message that cannot be answered; `call` is None if it was not decoded."""
