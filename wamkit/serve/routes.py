"""What a server answers over plain HTTP, and whom it lets in.

`/healthz` and `/readyz` are open to everybody; websockets and `/metrics` need an API key if there
are keys. A websocket needs a free place, too (`wamkit.serve.limits`).
"""

from __future__ import annotations

import http
from collections.abc import Callable, Mapping

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from ..errors import WamkitError
from .connection import Connection
from .keys import SCHEME, ApiKeys
from .limits import Admission
from .metrics import Metrics
from .sessions import log

SHUTDOWN = "the server is shutting down"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Routes:
    """Answers HTTP requests, and admits websockets."""

    def __init__(
        self,
        admission: Admission,
        metrics: Metrics,
        keys: ApiKeys,
        gauges: Callable[[], Mapping[str, float]],
    ) -> None:
        self.admission, self.metrics, self.keys, self.gauges = admission, metrics, keys, gauges

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request of HTTP; None for a websocket, whose handshake goes on."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz" and not self.admission.draining:
            return connection.respond(http.HTTPStatus.OK, "ready\n")
        if not self.keys.accept(_authorization(request)):
            response = connection.respond(
                http.HTTPStatus.UNAUTHORIZED, f"send a header: Authorization: {SCHEME} KEY\n"
            )
            response.headers["WWW-Authenticate"] = SCHEME
            log.info("%s:%s is refused: no valid API key", *connection.remote_address[:2])
            return response
        if path == "/metrics":
            return self._metrics(connection)
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


def respond(status: http.HTTPStatus, body: bytes, kind: str) -> Response:
    """A whole response of HTTP, after which the connection ends."""
    headers = Headers(
        {
            "Connection": "close",
            "Content-Length": str(len(body)),
            "Content-Type": kind,
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
    )
    return Response(status.value, status.phrase, headers, body)


def _authorization(request: Request) -> str | None:
    """The header `Authorization`; None if there is none, or several."""
    found = request.headers.get_all("Authorization")
    return found[0] if len(found) == 1 else None
