"""Protocols over HTTP: each request is one call, answered by a thread of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore, Lock, Thread
from time import monotonic
from typing import Any

from ...errors import WamkitError
from ..keys import SCHEME
from ..routes import PROMETHEUS, SHUTDOWN
from .json_arrays import HttpMessage
from .peers import PeerServer

SECONDS = 30
"""A client that sends nothing for so long within a request, or before the next, is dropped."""
LAST = 1.0
"""Seconds that the last answers have to be sent, once the running batch is done."""
TEXT = "text/plain; charset=utf-8"


class AdapterServer(PeerServer):
    """Serves a protocol of HTTP, with `/healthz`, `/readyz` and `/metrics` on the same port."""

    def _listen(self, listener: socket.socket) -> AbstractAsyncContextManager[Any]:
        return self._accept(listener)

    @asynccontextmanager
    async def _accept(self, listener: socket.socket) -> AsyncIterator[None]:
        made = _HttpServer(listener, self, asyncio.get_running_loop())
        thread = Thread(target=made.serve_forever, args=(0.05,), name="http", daemon=True)
        thread.start()
        try:
            yield
        finally:
            loop, end = asyncio.get_running_loop(), monotonic() + LAST
            await loop.run_in_executor(None, made.shutdown)
            while made.active and monotonic() < end:  # answers are sent by threads
                await asyncio.sleep(0.01)
            made.server_close()

    async def respond(self, message: HttpMessage, name: str) -> tuple[int, bytes, str]:
        """Status, body and type of the answer to a call."""
        call = None
        try:
            with self.count_message(0):
                call = await self.decode(self.adapter, message)
                answer = await self.answer(
                    self.dialogue((call.session, "" if call.session else name)), self.adapter, call
                )
            return HTTPStatus.OK, *answer
        except Exception as error:
            failure = self.describe(error)
            return failure.status, *self.adapter.refuse(call, str(failure))


class _HttpServer(ThreadingHTTPServer):
    """A server of threads on a socket that is bound already."""

    daemon_threads, block_on_close = True, False

    def __init__(
        self, listener: socket.socket, core: AdapterServer, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(listener.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.core, self.loop = listener, core, loop
        self.bytes_held, self.active, self.lock = 0, 0, Lock()
        self.places = BoundedSemaphore(core.limits.clients + core.limits.handshakes)
        self.server_activate()

    def reserve(self, nbytes: int) -> bool:
        """Count a call with the bytes of its body; False if they are too many with all others."""
        with self.lock:
            if self.bytes_held + nbytes > self.core.limits.buffer:
                return False
            self.bytes_held += nbytes
            self.active += 1
            return True

    def release(self, nbytes: int) -> None:
        """Count a call no longer."""
        with self.lock:
            self.bytes_held -= nbytes
            self.active -= 1

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection a thread, if one is free."""
        if self.places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are no error of the server."""


class _Handler(BaseHTTPRequestHandler):
    """The requests of one connection."""

    protocol_version, server_version, sys_version = "HTTP/1.1", "wamkit", ""
    timeout, disable_nagle_algorithm = SECONDS, True
    server: _HttpServer

    def log_message(self, *args: Any) -> None:
        """Requests are counted, not logged."""

    def do_GET(self) -> None:
        """Health, metrics, and what the protocol says of the policy."""
        core, path = self.server.core, self.path.partition("?")[0]
        draining = core.admission.draining
        if path in ("/healthz", "/health"):
            return self._send(HTTPStatus.OK, b"OK\n", TEXT)
        if path == "/readyz":
            ready = HTTPStatus.SERVICE_UNAVAILABLE if draining else HTTPStatus.OK
            return self._send(ready, b"ready\n" if ready == HTTPStatus.OK else SHUTDOWN.encode())
        if not self._allowed():
            return None
        if path == "/metrics":
            try:
                body, kind = core.metrics.render(core._gauges()), PROMETHEUS
            except WamkitError as error:
                return self._send(HTTPStatus.NOT_IMPLEMENTED, str(error).encode())
            return self._send(HTTPStatus.OK, body, kind)
        found = core.adapter.describe(path)  # type: ignore[attr-defined]
        if found is None:
            return self._send(HTTPStatus.NOT_FOUND, f"no {path[:100]!r} here\n".encode())
        return self._send(HTTPStatus.OK, *found)

    def do_POST(self) -> None:
        """A call."""
        core, path = self.server.core, self.path.partition("?")[0]
        length = self.headers.get("Content-Length", "")
        if not self._allowed():
            return None
        if not length.isascii() or not length.isdigit():
            return self._send(HTTPStatus.LENGTH_REQUIRED, b"send a Content-Length\n")
        if len(length) > 15 or int(length) > core.limits.message:
            most = core.limits.message >> 20
            text = f"a message of {length[:20]} bytes; at most {most} MiB are taken\n"
            return self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, text.encode())
        if path != core.adapter.path:  # type: ignore[attr-defined]
            text = f"no {path[:100]!r} here; send to {core.adapter.path}\n"  # type: ignore[attr-defined]
            return self._send(HTTPStatus.NOT_FOUND, text.encode())
        if core.admission.draining:
            return self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{SHUTDOWN}\n".encode())
        if not self.server.reserve(int(length)):
            return self._send(HTTPStatus.SERVICE_UNAVAILABLE, b"the server is busy\n")
        try:
            return self._call(int(length))
        finally:
            self.server.release(int(length))

    def _call(self, length: int) -> None:
        """Read a body of so many bytes, and answer it."""
        body = self.rfile.read(length)
        if len(body) < length:
            self.close_connection = True
            return None
        kinds = self.headers.get("Content-Type", ""), self.headers.get("Accept", "")
        working = self.server.core.respond(HttpMessage(body, *kinds), self.client_address[0])
        try:
            done = asyncio.run_coroutine_threadsafe(working, self.server.loop).result()
        except (RuntimeError, CancelledError):  # the loop has ended
            working.close()
            return self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{SHUTDOWN}\n".encode())
        return self._send(*done, close=False)

    def _allowed(self) -> bool:
        """True if the client may ask; answers it if not."""
        found = self.headers.get_all("Authorization") or [""]
        if self.headers.get("Origin") is not None:  # a page in a browser
            self._send(HTTPStatus.FORBIDDEN, b"pages in a browser are refused\n")
        elif len(found) == 1 and self.server.core.keys.accept(_bearer(found[0])):
            return True
        else:
            text = f"send a header: Authorization: {SCHEME} KEY\n"
            self._send(HTTPStatus.UNAUTHORIZED, text.encode())
        return False

    def _send(self, status: int, body: bytes, kind: str = TEXT, close: bool = True) -> None:
        """Send a whole response. An unread body ends the connection."""
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Content-Type-Options", "nosniff")
        if close:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        self.wfile.write(body)


def _bearer(header: str | None) -> str | None:
    """A header with the scheme of the server, if it was `Bearer`, as clients of SGLang send it."""
    scheme, _, key = (header or "").strip().partition(" ")
    return f"{SCHEME} {key}" if scheme.lower() == "bearer" else header
