"""A policy that answers robots over websockets, one chunk a request, as openpi's server does.

Every client has a session of its own, so that paradigms that remember do so client by client; it
outlives a connection that breaks (`wamkit.serve.sessions`).
One thread does all that concerns the policy, requests in the order in which they came; another
reads and writes, and tells `GET /healthz` at any time that the server is alive.
"""

from __future__ import annotations

import asyncio
import errno
import http
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from contextvars import copy_context
from dataclasses import replace
from functools import partial
from threading import Thread
from time import monotonic, perf_counter
from typing import Any, TypeVar

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..errors import WamkitError
from ..policy import Policy
from ..trial import observation
from .codec import LIMIT, pack, unpack
from .messages import NUMBER, Messages, numbered
from .sessions import Held, Patience, Sessions

T = TypeVar("T")


class Server:
    """One policy for any number of clients.

        server = Server(policy, "cups")
        server.warm_up()
        with beside(server, bound("127.0.0.1", 8000)):
            ...

    Set the policy's mode before: what torch is told in one thread it does not know in another, so
    the policy's thread works under the settings of the thread that makes the server.
    """

    def __init__(
        self,
        policy: Policy,
        name: str = "",
        renamed: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self.policy, self.patience = policy, patience or Patience()
        self.sessions = Sessions(policy.session, self.patience)
        self.messages = Messages(policy, name or policy.spec.backbone.name, renamed or {})
        self._worker = ThreadPoolExecutor(1, "policy")
        self._settings = copy_context()

    def warm_up(self, prompts: Sequence[str] = ()) -> None:
        """Make a chunk for each instruction, and the one after it where the paradigm remembers.

        Whatever is encoded, compiled, recorded or allocated at first is there when a client asks.
        Without any, one chunk for some instruction: others may have another length.
        """
        for prompt in prompts or (None,):
            self._submit(partial(self._rehearse, prompt)).result()

    @asynccontextmanager
    async def open(self, listener: socket.socket) -> AsyncIterator[None]:
        """Answer on a bound socket for as long as the block lasts; once for a server.

        Pages in a browser are refused: they may reach this machine's own address.
        """
        try:
            async with serve(
                self._client,
                sock=listener,
                compression=None,
                max_size=LIMIT,
                origins=[None],
                process_request=_health,
                ping_interval=self.patience.ping_interval,
                ping_timeout=self.patience.ping_timeout,
            ):
                yield
        finally:
            self.sessions.clear()
            self._worker.shutdown()

    def _rehearse(self, prompt: str | None) -> None:
        session = self.policy.session()
        for _ in range(2 if self.policy.paradigm.streams else 1):
            seen = observation(self.policy.spec, batch=1, frames=session.pictures)
            session.act(seen if prompt is None else replace(seen, prompt=[prompt]), seed=0)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self._worker.submit(self._settings.run, work)

    async def _client(self, connection: ServerConnection) -> None:
        """One client, from its greeting to its end."""
        (held, resumed), before, broken = self.sessions.take(connection), None, False
        told = {"id": held.name, "resumed": resumed, "timeout": self.patience.session_timeout}
        try:
            await connection.send(pack({**self.messages.metadata(), "session": told}))
            async for message in connection:
                came, held.heard = perf_counter(), monotonic()
                work = partial(self._answer, held, connection, message, came, before)
                await connection.send(await asyncio.wrap_future(self._submit(work)))
                before = perf_counter() - came
        except ConnectionClosed:
            return
        except Exception as error:
            broken = True  # whatever it was in the midst of is not gone on with
            with suppress(ConnectionClosed):
                await connection.send(f"a bug in the server: {type(error).__name__}: {error}")
            raise  # websockets logs it, and closes this connection with code 1011
        finally:
            self.sessions.leave(held, connection, broken=broken)

    def _answer(
        self,
        held: Held,
        connection: ServerConnection,
        message: str | bytes,
        came: float,
        before: float | None,
    ) -> str | bytes:
        """A reply in bytes, or as text what is wrong with the request; times in seconds.

        A request that has the number of the one before it was sent again, because the connection
        broke before its reply was there: it is answered as before, and not acted on twice.
        """
        begun, number = perf_counter(), None
        try:
            if isinstance(message, str):
                raise WamkitError("a text frame", "send binary frames of msgpack")
            request = unpack(message)
            if held.owner is not connection:
                raise WamkitError("another client has taken this session", "connect again")
            if isinstance(request, dict) and NUMBER in request:
                number = numbered(request.pop(NUMBER), held.number)
                if number == held.number and held.reply is not None:
                    return held.reply
            reply = self.messages.answer(held.session, request)
        except WamkitError as error:
            if number is not None:
                held.number, held.reply = number, str(error)
            return str(error)
        timing = {"infer_ms": 1000 * (perf_counter() - begun), "wait_ms": 1000 * (begun - came)}
        if before is not None:
            timing["prev_total_ms"] = 1000 * before
        packed = pack({**reply, "server_timing": timing})
        held.number, held.reply = number, packed if number is not None else None
        return packed


def _health(connection: ServerConnection, request: Request) -> Response | None:
    if request.path == "/healthz":
        return connection.respond(http.HTTPStatus.OK, "OK\n")
    return None


def bound(host: str, port: int) -> socket.socket:
    """A socket at this address, which refuses clients until a server is there; 0 is a free port.

    Raises WamkitError if the address cannot be had.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise WamkitError(
            f"there is no host {host!r}: {error.strerror}", "--host 127.0.0.1, or 0.0.0.0 for all"
        ) from None
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
    except OSError as error:
        made.close()
        hints = {
            errno.EADDRINUSE: f"end what is there, or take --port {port + 1}, or --port 0 for any",
            errno.EACCES: "take a port from 1024 on",
            errno.EADDRNOTAVAIL: "name an address of this machine: --host 127.0.0.1",
        }
        raise WamkitError(
            f"port {port} of {host} cannot be had: {error.strerror}",
            hints.get(error.errno or 0, "take another --port"),
        ) from None
    return made


def address_of(listener: socket.socket) -> tuple[str, int]:
    """Host and port of a bound socket."""
    found: Any = listener.getsockname()
    return found[0], found[1]


@contextmanager
def beside(server: Server, listener: socket.socket) -> Iterator[None]:
    """The server at work in a thread beside the caller's for as long as the block lasts."""
    started: Future[Callable[[], Any]] = Future()

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        async with server.open(listener):
            started.set_result(partial(loop.call_soon_threadsafe, stop.set))
            await stop.wait()

    thread = Thread(target=lambda: asyncio.run(run()), name="server", daemon=True)
    thread.start()
    end = started.result()
    try:
        yield
    finally:
        end()
        thread.join()
