"""A policy that answers robots over websockets, one chunk a request, as openpi's server does.

Every client has a session of its own, so that paradigms that remember do so client by client; it
outlives a connection that breaks (`wamkit.serve.sessions`).
Messages are read in threads of their own, requests of several clients are computed together
(`wamkit.serve.batching`) in the thread of the policy (`wamkit.serve.worker`), and the event loop
sends and receives, and answers `GET /healthz`, `/readyz` and `/metrics` at any time
(`wamkit.serve.routes`).
What clients may take together is in `wamkit.serve.limits`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Thread
from time import monotonic, perf_counter
from typing import Any, TypeVar

import torch
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from ..errors import WamkitError
from ..policy.policy import Policy
from .address import address_of, bind
from .batching import Batcher, Job
from .codec import pack, unpack
from .connection import Connection
from .keys import ApiKeys
from .limits import Admission, Limits
from .metrics import Metrics
from .protocol import NUMBER, ParsedRequest, RequestHandler, check_request_number
from .robot_map import RobotMap
from .routes import SHUTDOWN, Routes
from .sessions import ServerSession, Sessions, SessionTimeouts, log
from .watch import Watch
from .worker import PolicyWorker, Work

__all__ = ["Server", "address_of", "bind", "run_in_thread"]

T = TypeVar("T")

GRACE = 0.3
"""Seconds that clients have to answer the last close frame, once the running batch is done."""
CLOSE_TIMEOUT = 2
"""Seconds that one client has to answer a close frame while the server keeps running."""
READERS = 2
"""Threads that read messages: they unpack, decode images and validate."""
GOING_AWAY, BUG = 1001, 1011
"""Close codes (RFC 6455, 7.4.1)."""

silent = logging.getLogger("wamkit.serve.websockets")
"""For what websockets logs: each line of it is the log of a connection, and has one of ours."""
silent.addHandler(logging.NullHandler())
silent.propagate = False


@dataclass
class Request:
    """A message of a client on its way to the policy."""

    held: ServerSession
    connection: Connection
    came: float
    """When it was received, in seconds of `perf_counter`."""
    before: float | None
    """Seconds that the request before it took."""
    number: int | None = None
    work: Work | None = None
    fault: str = ""
    """Why it is refused."""
    seconds: float = 0.0
    """Seconds that it took to read."""
    encode: Callable[[dict[str, Any]], Any] = pack
    """Makes a message of its reply."""


class Server:
    """One policy for any number of clients.

        server = Server(policy, "cups")
        server.warm_up()
        with run_in_thread(server, bind("127.0.0.1", 8000)):
            ...

    Set the policy's mode before: settings of torch in one thread do not hold in another, so
    the policy's thread works under the settings of the thread that makes the server.

    With `robot`, requests and replies have the keys, units and signs of that robot.
    """

    protocol = "openpi"

    def __init__(
        self,
        policy: Policy,
        name: str = "",
        renamed: Mapping[str, str] | None = None,
        patience: SessionTimeouts | None = None,
        limits: Limits | None = None,
        keys: ApiKeys | None = None,
        watch: bool = False,
        robot: RobotMap | None = None,
    ) -> None:
        """With `watch`, a page at `/watch` shows what robots send and what the policy imagines."""
        self.robot = None if robot is None else robot.bind(policy.spec)
        self.policy, self.patience = policy, patience or SessionTimeouts()
        self.sessions = Sessions(policy.session, self.patience)
        self.handler = RequestHandler(policy, name or policy.spec.backbone.name, renamed or {})
        self.limits = limits or Limits()
        self.admission, self.metrics = Admission(self.limits), Metrics()
        self.worker = PolicyWorker(self.handler, self.limits.batch)
        self.batcher = Batcher(self._compute, self.limits, self._robots)
        self._readers = ThreadPoolExecutor(READERS, "messages")
        self.watch = Watch(self.handler.metadata()) if watch else None
        self.routes = Routes(
            self.admission, self.metrics, keys or ApiKeys(), self._gauges, self.watch, self._readers
        )

    def metadata(self) -> dict[str, Any]:
        """The greeting: keys and shapes of requests and replies."""
        found = self.handler.metadata()
        return found if self.robot is None else self.robot.describe(found)

    def warm_up(self, prompts: Sequence[str] = ()) -> None:
        """Sample chunks before a client waits, as `PolicyWorker.warm_up`."""
        self.worker.warm_up(prompts)

    @asynccontextmanager
    async def open(self, listener: socket.socket) -> AsyncIterator[None]:
        """Serve on a bound socket within the block; only once per server.

        At the end the batch that is being computed is answered, requests that wait are refused, and
        every client gets a close frame with code 1001; the server waits for no client longer than
        GRACE seconds after that answer. Pages in a browser are refused: they may reach this
        machine's own address.
        """
        computing = asyncio.create_task(self.batcher.run())
        try:
            async with self._listen(listener):
                try:
                    yield
                finally:
                    await self._drain(computing)
        finally:
            self.batcher.close()
            self.sessions.clear()
            self._readers.shutdown()
            self.worker.close()

    def _listen(self, listener: socket.socket) -> AbstractAsyncContextManager[Any]:
        """Accept clients within the block."""
        return serve(
            self._client,  # type: ignore[arg-type]
            sock=listener,
            compression=None,
            max_size=self.limits.message,
            max_queue=1,
            origins=[None],
            process_request=self.routes.answer,
            process_response=self.routes.admit,
            ping_interval=self.patience.ping_interval,
            ping_timeout=self.patience.ping_timeout,
            close_timeout=CLOSE_TIMEOUT,
            logger=silent,
            create_connection=partial(  # type: ignore[arg-type]
                Connection, admission=self.admission
            ),
        )

    async def _drain(self, computing: asyncio.Task[None]) -> None:
        """Finish the running batch, refuse waiting requests, and close every connection."""
        self.admission.draining = True
        self.batcher.close()
        clients = list(self.admission.clients)
        farewells = [self._dismiss(client) for client in clients if not client.answering]
        tasks = [asyncio.create_task(farewell) for farewell in farewells]
        await computing
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

    def _submit(self, work: Callable[[], T]) -> Future[T]:
        return self.worker.submit(work)

    def _robots(self) -> int:
        """Clients that may send a request soon."""
        return sum(client.served or client.pending for client in self.admission.clients)

    def _gauges(self) -> dict[str, float]:
        """What the server holds now, for metrics."""
        return {
            "clients": len(self.admission.clients),
            "sessions": len(self.sessions.held),
            "queue": len(self.batcher.waiting),
            "message_bytes": self.admission.bytes_held,
        }

    async def _client(self, connection: Connection) -> None:
        """One client, from its greeting to its end."""
        (held, resumed), before, broken = self.sessions.take(connection), None, False
        connection.served = held.served
        greeting = {"id": held.name, "resumed": resumed, "timeout": self.patience.session_timeout}
        try:
            await connection.send(pack({**self.metadata(), "session": greeting}))
            while not self.admission.draining:
                message = await connection.next_message()
                held.last_request_time = monotonic()
                request = Request(held, connection, perf_counter(), before)
                reading = self._begin_reading(request, message)
                del message  # its size counts with the messages
                await reading
                self._hold(request)
                await self._reply(request)
                before = perf_counter() - request.came
                del request, reading
            await connection.close(GOING_AWAY, SHUTDOWN)
        except ConnectionClosed:
            return
        except Exception as error:
            broken = True  # the session cannot continue from a failed chunk
            self.metrics.count("failed")
            with suppress(ConnectionClosed):
                await connection.send(describe_failure(error))
                await connection.close(BUG, type(error).__name__)
        finally:
            self.sessions.leave(held, connection, broken=broken)

    def _begin_reading(self, request: Request, message: str | bytes) -> asyncio.Future[None]:
        """Read a message in a thread of its own."""
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._readers, self._read, request, message)

    def _hold(self, request: Request) -> None:
        """Count the images of a request that was read; refuse it if they are too many."""
        if request.work is not None and (large := request.connection.hold(request.work.nbytes)):
            request.work, request.fault = None, large

    def _read(self, request: Request, message: str | bytes) -> None:
        """Unpack and validate a message. Runs in a thread of its own."""
        try:
            if isinstance(message, str):
                raise WamkitError("a text frame", "send binary frames of msgpack")
            found = unpack(message)
        except WamkitError as error:
            request.fault = str(error)
            return
        self._validate(request, found)

    def _validate(self, request: Request, found: Any) -> None:
        """Validate a message that was unpacked. Runs in a thread of its own."""
        try:
            if isinstance(found, dict) and NUMBER in found:
                request.number = check_request_number(found.pop(NUMBER), None)
            if self.robot is not None:
                found = self.robot.to_request(found)
            parsed: ParsedRequest | dict[str, Any] = found
            if self.policy.paradigm.stateful:
                self.handler.expect_keys(found)
            else:
                parsed = self.handler.parse(found, self.policy.spec.video.num_observed)
                self.handler.arrive(request.held.session, found)
            request.work = Work(request.held.session, parsed)
        except WamkitError as error:
            request.fault = str(error)
        request.seconds = perf_counter() - request.came

    async def _reply(self, request: Request) -> None:
        """Wait for the turn of a request, and send the reply.

        Skips requests of clients that disconnected, and all once the server is shutting down.
        """
        connection = request.connection
        try:
            reply = await self.batcher.submit(self._job(request))
            await (connection.wait_closed() if reply is None else connection.send(reply))
        except WamkitError as busy:
            self.metrics.count("busy")
            await connection.send(str(busy))
        finally:
            connection.answering = False

    def _job(self, request: Request) -> Job:
        """What the batcher needs to know of a request that was read."""
        connection, work = request.connection, request.work
        stateful = work is None or not isinstance(work.request, ParsedRequest)
        signature = None if stateful or work is None else work.request.signature  # type: ignore[union-attr]
        return Job(
            request.held,
            signature,
            request,
            lambda: connection.state is State.OPEN,
            lambda: setattr(connection, "answering", True),
            request.came,
        )

    async def _compute(self, batch: Sequence[Request]) -> list[str | bytes | Exception]:
        """The replies to a batch: bytes, or an error as text."""
        replies: list[str | bytes | Exception] = [_known(request) or b"" for request in batch]
        todo = [place for place, reply in enumerate(replies) if reply == b""]
        works = [work for place in todo if (work := batch[place].work) is not None]
        if todo:
            answers = await asyncio.wrap_future(self._submit(partial(self.worker.compute, works)))
            self.metrics.observe_batch(len(todo), answers[0][1])
            for place, (answer, seconds) in zip(todo, answers, strict=True):
                replies[place] = self._finished(batch[place], answer, seconds, len(todo))
        for reply in replies:
            if isinstance(reply, str):
                self.metrics.count("refused")
        self._imagine()
        return replies

    def _imagine(self) -> None:
        """Imagine a future for the page, if nobody waits for the policy."""
        if self.watch is None or self.batcher.waiting or not self.handler.imagines:
            return
        if (robot := self.watch.to_imagine()) is None:
            return

        def show(done: Future[dict[str, list[bytes]]]) -> None:
            if done.exception() is None:
                robot.imagined = done.result()

        self._submit(partial(self.worker.imagine, robot.seen)).add_done_callback(show)

    def _finished(
        self, request: Request, answer: dict[str, Any] | Exception, seconds: float, batch: int
    ) -> str | bytes | Exception:
        """The reply to a request, with its times; an exception that is no fault of the client."""
        held, total = request.held, perf_counter() - request.came
        if isinstance(answer, WamkitError):
            request.fault = str(answer)
            return _known(request) or ""
        if isinstance(answer, Exception):
            return answer
        spent = request.seconds + seconds
        timing = {"infer_ms": 1000 * spent, "wait_ms": 1000 * max(0.0, total - spent)}
        timing["batch"] = batch
        if request.before is not None:
            timing["prev_total_ms"] = 1000 * request.before
        reply = {**answer, "server_timing": timing}
        parsed = None if request.work is None else request.work.request
        if self.watch is not None and isinstance(parsed, ParsedRequest):
            self.watch.observe(held.short, parsed, reply)
        packed = request.encode(reply if self.robot is None else self.robot.to_reply(reply))
        held.served = request.connection.served = True
        held.number, held.reply = request.number, packed if request.number is not None else None
        self.metrics.count("answered", total)
        return packed


def _known(request: Request) -> str | bytes | None:
    """The reply to a request that needs no policy: refused, or sent again; None for others.

    A request that has the number of the one before it was sent again, because the connection
    broke before its reply was there: it is answered as before, and not acted on twice.
    """
    held, number = request.held, request.number
    if held.owner is not request.connection:
        return str(WamkitError("another client has taken this session", "connect again"))
    if number is not None:
        try:
            check_request_number(number, held.number)
        except WamkitError as error:
            return str(error)
        if number == held.number and held.reply is not None:
            return held.reply
    if not request.fault:
        return None
    if number is not None:
        held.number, held.reply = number, request.fault
    return request.fault


def describe_failure(error: Exception) -> str:
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
