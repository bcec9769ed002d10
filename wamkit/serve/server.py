"""A policy that answers robots over websockets, one chunk a request, as openpi's server does.

Every client has a session of its own, so that paradigms that remember do so client by client; it
outlives a connection that breaks (`wamkit.serve.sessions`).
One thread does all that concerns the policy, requests in the order in which they came; another
reads and writes, and answers `GET /healthz` and `GET /readyz` at any time.
What clients may take together is in `wamkit.serve.limits`.
"""

from __future__ import annotations

import asyncio
import http
import logging
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

import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.protocol import State

from ..errors import WamkitError
from ..policy.observation import random_observation
from ..policy.policy import Policy
from .address import address_of, bind
from .codec import LIMIT, pack, unpack
from .connection import Connection
from .limits import Admission, Limits
from .protocol import NUMBER, RequestHandler, check_request_number
from .sessions import ServerSession, Sessions, SessionTimeouts, log

__all__ = ["Server", "address_of", "bind", "run_in_thread"]

T = TypeVar("T")

GRACE = 0.3
"""Seconds that clients have to answer the last close frame, once the running chunk is done."""
CLOSE_TIMEOUT = 2
"""Seconds that one client has to answer a close frame while the server keeps running."""
GOING_AWAY, BUG = 1001, 1011
"""Close codes (RFC 6455, 7.4.1)."""
SHUTDOWN = "the server is shutting down"

silent = logging.getLogger("wamkit.serve.websockets")
"""For what websockets logs: each line of it is the log of a connection, and has one of ours."""
silent.addHandler(logging.NullHandler())
silent.propagate = False


class Server:
    """One policy for any number of clients.

        server = Server(policy, "cups")
        server.warm_up()
        with run_in_thread(server, bind("127.0.0.1", 8000)):
            ...

    Set the policy's mode before: settings of torch in one thread do not hold in another, so
    the policy's thread works under the settings of the thread that makes the server.
    """

    def __init__(
        self,
        policy: Policy,
        name: str = "",
        renamed: Mapping[str, str] | None = None,
        patience: SessionTimeouts | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.policy, self.patience = policy, patience or SessionTimeouts()
        self.sessions = Sessions(policy.session, self.patience)
        self.handler = RequestHandler(policy, name or policy.spec.backbone.name, renamed or {})
        self.admission = Admission(limits or Limits())
        self._worker = ThreadPoolExecutor(1, "policy")
        self._turn = asyncio.Lock()  # requests wait for it in the order in which they came
        self._settings = copy_context()

    def warm_up(self, prompts: Sequence[str] = ()) -> None:
        """Sample a chunk for each prompt, and a second one if the paradigm is stateful.

        Lazy encoding, compilation, capture and allocation happen here, before a client waits.
        Without any, one chunk for some instruction: others may have another length.
        """
        for prompt in prompts or (None,):
            self._submit(partial(self._rehearse, prompt)).result()

    @asynccontextmanager
    async def open(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve on a bound socket within the block; only once per server.

        At the end the request that is being computed is answered, those that wait are refused, and
        every client gets a close frame with code 1001; the server waits for no client longer than
        GRACE seconds after that answer. Pages in a browser are refused: they may reach this
        machine's own address.
        """
        try:
            async with serve(
                self._client,  # type: ignore[arg-type]
                sock=listener,
                compression=None,
                max_size=LIMIT,
                max_queue=1,
                origins=[None],
                process_request=self._inform,
                process_response=self._admit,
                ping_interval=self.patience.ping_interval,
                ping_timeout=self.patience.ping_timeout,
                close_timeout=CLOSE_TIMEOUT,
                logger=silent,
                create_connection=partial(  # type: ignore[arg-type]
                    Connection, admission=self.admission
                ),
            ):
                try:
                    yield
                finally:
                    await self._drain()
        finally:
            self.sessions.clear()
            self._worker.shutdown()

    async def _drain(self) -> None:
        """Finish the running request, refuse waiting ones, and close every connection."""
        self.admission.draining = True
        clients = list(self.admission.clients)
        farewells = [self._dismiss(client) for client in clients if not client.answering]
        tasks = [asyncio.create_task(farewell) for farewell in farewells]
        async with self._turn:  # behind the running request, and those that waited for it
            pass
        tasks += [asyncio.create_task(client.wait_closed()) for client in clients]
        if tasks:
            await asyncio.wait(tasks, timeout=GRACE)
        self.admission.abort()

    async def _dismiss(self, connection: Connection) -> None:
        """Send an error to a client that waits for an answer: the server is shutting down."""
        with suppress(ConnectionClosed):
            if connection.pending:
                await connection.send(f"{SHUTDOWN}, and has not acted on this request")
            await connection.close(GOING_AWAY, SHUTDOWN)

    def _inform(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a health probe; refuse websockets during shutdown."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if self.admission.draining:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{SHUTDOWN}\n")
        if path == "/readyz":
            return connection.respond(http.HTTPStatus.OK, "ready\n")
        return None

    def _admit(
        self, connection: ServerConnection, request: Request, response: Response
    ) -> Response | None:
        """Admit a client after a valid handshake, if limits allow."""
        assert isinstance(connection, Connection)
        if response.status_code != http.HTTPStatus.SWITCHING_PROTOCOLS:
            return None
        if why := self.admission.admit(connection):
            log.info("%s:%s is refused: %s", *connection.remote_address[:2], why)
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{why}\n")
        return None

    def _rehearse(self, prompt: str | None) -> None:
        session = self.policy.session()
        for _ in range(2 if self.policy.paradigm.stateful else 1):
            seen = random_observation(self.policy.spec, batch=1, frames=session.num_images)
            session.act(seen if prompt is None else replace(seen, prompt=[prompt]), seed=0)

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self._worker.submit(self._settings.run, work)

    async def _client(self, connection: Connection) -> None:
        """One client, from its greeting to its end."""
        (held, resumed), before, broken = self.sessions.take(connection), None, False
        connection.served = held.served
        greeting = {"id": held.name, "resumed": resumed, "timeout": self.patience.session_timeout}
        try:
            await connection.send(pack({**self.handler.metadata(), "session": greeting}))
            while not self.admission.draining:
                message = await connection.next_message()
                came, held.last_request_time = perf_counter(), monotonic()
                work = partial(self._answer, held, connection, message, came, before)
                del message  # its size counts with the messages
                await self._reply(connection, work)
                del work
                before = perf_counter() - came
            await connection.close(GOING_AWAY, SHUTDOWN)
        except ConnectionClosed:
            return
        except Exception as error:
            broken = True  # the session cannot continue from a failed chunk
            with suppress(ConnectionClosed):
                await connection.send(_failure(error))
                await connection.close(BUG, type(error).__name__)
        finally:
            self.sessions.leave(held, connection, broken=broken)

    async def _reply(self, connection: Connection, work: Callable[[], str | bytes]) -> None:
        """Wait for the turn of a request, and send the reply.

        Skips requests of clients that disconnected, and all once the server is shutting down.
        """
        try:
            async with self._turn:
                ended = self.admission.draining or connection.state is not State.OPEN
                if not ended:
                    connection.answering = True
                    reply = await asyncio.wrap_future(self._submit(work))
            await (connection.wait_closed() if ended else connection.send(reply))
        finally:
            connection.answering = False

    def _answer(
        self,
        held: ServerSession,
        connection: Connection,
        message: str | bytes,
        came: float,
        before: float | None,
    ) -> str | bytes:
        """Return the reply in bytes, or an error as text; times in seconds.

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
                number = check_request_number(request.pop(NUMBER), held.number)
                if number == held.number and held.reply is not None:
                    return held.reply
            reply = self.handler.answer(held.session, request)
        except WamkitError as error:
            if number is not None:
                held.number, held.reply = number, str(error)
            return str(error)
        timing = {"infer_ms": 1000 * (perf_counter() - begun), "wait_ms": 1000 * (begun - came)}
        if before is not None:
            timing["prev_total_ms"] = 1000 * before
        packed = pack({**reply, "server_timing": timing})
        held.served = connection.served = True
        held.number, held.reply = number, packed if number is not None else None
        return packed


def _failure(error: Exception) -> str:
    """Message for a client about an internal error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        log.error("out of memory in the answer to a request: %s", error)
        return (
            "the server ran out of memory for this request\n  hint: send smaller images, or serve "
            "on another --device"
        )
    log.error("a bug in the server", exc_info=error)
    return f"a bug in the server: {type(error).__name__}: {error}"


@contextmanager
def run_in_thread(server: Server, listener: socket.socket) -> Iterator[None]:
    """Run the server in a thread within the block."""
    started: Future[Callable[[], Any]] = Future()

    async def run() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()
        try:
            async with server.open(listener):
                started.set_result(partial(loop.call_soon_threadsafe, stop.set))
                await stop.wait()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = Thread(target=lambda: asyncio.run(run()), name="server", daemon=True)
    thread.start()
    end = started.result()
    try:
        yield
    finally:
        end()
        thread.join()
