"""The core as transports see it: a call of a client goes in, the reply of the policy comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

from websockets.protocol import State

from ...errors import WamkitError
from ..fields import RESET
from ..quoting import truncate_text
from ..routes import SHUTDOWN
from ..server import Request, Server, describe_failure
from ..sessions import ServerSession
from .adapter import Adapter, Call


class Peer:
    """A client without a connection of websockets, as the core sees one."""

    remote_address = None
    state = State.OPEN

    def __init__(self, most: int) -> None:
        self.most = most
        self.answering = self.served = self.pending = False

    def hold(self, nbytes: int) -> str:
        """Why the images of a request are too many, or nothing."""
        if nbytes <= self.most:
            return ""
        return f"images of {nbytes >> 20} MiB are too many\n  hint: send smaller images"


@dataclass
class Dialogue:
    """What the core keeps of a client between two messages."""

    held: ServerSession
    connection: Any
    """A `Connection` or a `Peer`."""
    session: str | None = None
    """The session that the last observation named."""
    reset: bool = False
    """True if the next observation begins an episode."""


class RefusedError(Exception):
    """An error that a client is answered with; `status` is that of HTTP."""

    def __init__(self, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.status = status


def decode_safely(adapter: Adapter, message: Any) -> Call:
    """Decode a message of an untrusted client. Raises WamkitError if that does not work."""
    try:
        return adapter.decode(message)
    except (TypeError, ValueError, AttributeError, LookupError, RecursionError) as error:
        raise WamkitError(
            f"a message of a form that {adapter.name} does not have: "
            f"{type(error).__name__}: {truncate_text(str(error), 200)}",
            "send messages as the protocol's own client does",
        ) from None


class CoreServer(Server):
    """`Server` whose clients speak through adapters; transports derive from it."""

    def __init__(self, adapter: type[Adapter], *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        assert self.robot is not None
        self.make_adapter: Callable[[], Adapter] = lambda: adapter(self.metadata(), self.robot)  # type: ignore[arg-type]
        self.protocol, self.adapter = adapter.name, self.make_adapter()
        self.in_flight = 0

    def _robots(self) -> int:
        return super()._robots() + self.in_flight

    async def run_aside(self, work: Callable[..., Any], *args: Any) -> Any:
        """Run something in a thread that reads messages."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, work, *args)

    async def decode(self, adapter: Adapter, message: Any) -> Call:
        """Decode a message in a thread. Raises WamkitError if it is of no form that is known."""
        found: Call = await self.run_aside(decode_safely, adapter, message)
        return found

    async def answer(self, dialogue: Dialogue, adapter: Adapter, call: Call) -> Any:
        """The encoded answer to a call. Raises RefusedError."""
        if call.session is not None and call.session != dialogue.session:
            dialogue.reset = dialogue.reset or dialogue.session is not None
            dialogue.session = call.session
        dialogue.reset = dialogue.reset or call.reset
        if call.request is None:
            return adapter.encode(call, {})
        reply = await self._infer(dialogue, call.request)
        return await self.run_aside(adapter.encode, call, reply)

    async def _infer(self, dialogue: Dialogue, found: dict[str, Any]) -> dict[str, Any]:
        """The reply of the policy. Raises RefusedError with its message if it refuses."""
        held, connection = dialogue.held, dialogue.connection
        held.last_request_time = monotonic()
        if dialogue.reset:
            found = {**found, RESET: True}
        request = Request(held, connection, perf_counter(), None, encode=dict)
        await self.run_aside(self._validate, request, found)
        self._hold(request)
        try:
            reply: Any = await self.batcher.submit(self._job(request))
        except WamkitError as busy:
            self.metrics.count("busy")
            raise RefusedError(str(busy), 503) from None
        finally:
            connection.answering = False
        if isinstance(reply, str):
            raise RefusedError(reply)
        if reply is None:
            raise RefusedError(f"{SHUTDOWN}, and has not acted on this request", 503)
        dialogue.reset = False
        answered: dict[str, Any] = reply
        return answered

    def describe(self, error: Exception) -> RefusedError:
        """A failure as an answer: what the client did wrong, or a bug."""
        if isinstance(error, RefusedError):
            return error
        if isinstance(error, WamkitError):
            self.metrics.count("refused")
            return RefusedError(str(error))
        self.metrics.count("failed")
        return RefusedError(describe_failure(error), 500)
