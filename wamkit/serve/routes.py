"""What a server answers over plain HTTP, and whom it lets in.

`/healthz` and `/readyz` are open to everybody; websockets, `/metrics` and `/watch/data` need an API
key if there are keys. A websocket needs a free place, too (`wamkit.serve.limits`).
"""

from __future__ import annotations

import asyncio
import http
import ipaddress
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from ..errors import WamkitError
from .connection import Connection
from .keys import SCHEME, ApiKeys
from .limits import Admission
from .metrics import Metrics
from .sessions import log
from .watch import Watch, encode, page

SHUTDOWN = "the server is shutting down"
FOREIGN = "this page is shown under an address or the name of this machine, and no other name"
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may load: nothing but its data."""
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Routes:
    """Answers HTTP requests, and admits websockets."""

    def __init__(
        self,
        admission: Admission,
        metrics: Metrics,
        keys: ApiKeys,
        gauges: Callable[[], Mapping[str, float]],
        watch: Watch | None,
        threads: Executor,
    ) -> None:
        self.admission, self.metrics, self.keys, self.gauges = admission, metrics, keys, gauges
        self.watch, self.threads = watch, threads

    async def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request of HTTP; None for a websocket, whose handshake goes on."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz" and not self.admission.draining:
            return connection.respond(http.HTTPStatus.OK, "ready\n")
        if self.watch is not None and path in ("/watch", "/watch/data"):
            if not _is_own_name(request.headers.get("Host", "")):
                return connection.respond(http.HTTPStatus.FORBIDDEN, f"{FOREIGN}\n")
            if path == "/watch":  # holds nothing that robots sent
                return respond(http.HTTPStatus.OK, page(), "text/html; charset=utf-8", POLICY)
        if not self.keys.accept(_authorization(request)):
            response = connection.respond(
                http.HTTPStatus.UNAUTHORIZED, f"send a header: Authorization: {SCHEME} KEY\n"
            )
            response.headers["WWW-Authenticate"] = SCHEME
            log.info("%s:%s is refused: no valid API key", *connection.remote_address[:2])
            return response
        if path == "/metrics":
            return self._metrics(connection)
        if self.watch is not None and path == "/watch/data":
            found = self.watch.ask(self.gauges())
            loop = asyncio.get_running_loop()
            body = await loop.run_in_executor(self.threads, encode, found)
            return respond(http.HTTPStatus.OK, body, "application/json")
        if self.admission.draining:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, f"{SHUTDOWN}\n")
        return None

    def _metrics(self, connection: ServerConnection) -> Response:
        try:
            return respond(http.HTTPStatus.OK, self.metrics.render(self.gauges()), PROMETHEUS)
        except WamkitError as error:
            return connection.respond(http.HTTPStatus.NOT_IMPLEMENTED, f"{error}\n")

    def admit(
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


def respond(status: http.HTTPStatus, body: bytes, kind: str, policy: str = "") -> Response:
    """A whole response of HTTP, then the connection ends; `policy` bounds what a page does."""
    headers = Headers(
        {
            "Connection": "close",
            "Content-Length": str(len(body)),
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            **({"Content-Security-Policy": policy} if policy else {}),
        }
    )
    return Response(status.value, status.phrase, headers, body)


def _authorization(request: Request) -> str | None:
    """The header `Authorization`; None if there is none, or several."""
    found = request.headers.get_all("Authorization")
    return found[0] if len(found) == 1 else None


def _is_own_name(host: str) -> bool:
    """True if a browser asked for an address, or this machine by its name.

    An untrusted page can give its own name the address of this machine, and would then read what
    is answered there.
    """
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ipaddress.ip_address(name)
    except ValueError:
        return name in ("localhost", socket.gethostname().lower())
    return True
