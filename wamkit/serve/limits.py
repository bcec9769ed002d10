"""What clients may take of a server together: how many there are, and how many bytes they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection

BUSY = "the server is busy"
"""How the message to a request begins that may be sent again later."""
TRY_AGAIN = 1013
"""Close code of a client that makes room for another one (RFC 6455, registry of close codes)."""


@dataclass(frozen=True)
class Limits:
    """Limits on what clients of a server may take, and how long they wait for each other."""

    clients: int = 64
    """Websocket connections at the same time, at least 1."""
    handshakes: int = 64
    """Connections that have not finished their HTTP request, at least 1."""
    buffer: int = 2**30
    """Bytes of messages that are half there or wait for their turn, at least 1.

    A client that holds less than `buffer / clients` is never cut off for what others hold.
    """
    message: int = 2**27
    """Bytes of one message, at least 1."""
    queue: int = 64
    """Requests that wait for their turn, at least 1; one more is answered "busy" at once."""
    batch: int = 8
    """Requests that are computed together, at least 1."""
    max_wait: float = 0.005
    """Seconds that a request waits for others to share its batch, while other robots are there."""


class Admission:
    """Counts the connections of a server and their memory, and decides which to close.

    All methods run in the event loop of the server.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.handshakes: dict[Connection, None] = {}  # oldest first, as are the clients
        self.clients: dict[Connection, None] = {}
        self.bytes_held = 0
        self.draining = False
        """True once the server ends: no client is admitted any more."""

    def arrive(self, connection: Connection) -> None:
        """Count a new connection; of too many without a finished handshake the oldest ends."""
        self.handshakes[connection] = None
        while len(self.handshakes) > self.limits.handshakes:
            oldest = next(iter(self.handshakes))
            del self.handshakes[oldest]
            oldest.transport.abort()

    def admit(self, connection: Connection) -> str:
        """Make a connection a client. Returns why it is refused, or nothing if it is admitted.

        Where there are too many, the oldest one that never got an answer and waits for none gives
        way, so that idle connections block no client.
        """
        if self.draining:
            return "the server is shutting down"
        if connection.ended:  # in the midst of its handshake
            return "the connection has ended"
        if len(self.clients) >= self.limits.clients:
            idle = next((client for client in self.clients if client.idle), None)
            if idle is None:
                return (
                    f"the server has {len(self.clients)} clients and takes no more: end one of "
                    "them, or start `wamkit serve` with a larger --max-clients"
                )
            idle.cut(TRY_AGAIN, "silent since it connected; made room for another client")
        self.handshakes.pop(connection, None)
        self.clients[connection] = None
        return ""

    def leave(self, connection: Connection) -> None:
        """Stop counting a connection."""
        self.handshakes.pop(connection, None)
        self.clients.pop(connection, None)
        self.recount(connection)

    def recount(self, connection: Connection) -> None:
        """Count the bytes that a connection holds now; of too many the largest holder ends."""
        held = connection.bytes_held
        self.bytes_held += held - connection.bytes_counted
        connection.bytes_counted = held
        while self.bytes_held > self.limits.buffer:
            holders = [client for client in self.clients if client.bytes_unanswered]
            if not holders:
                return  # the request that is being answered is all there is
            largest = max(holders, key=lambda client: client.bytes_unanswered)
            largest.cut(
                TRY_AGAIN,
                f"messages hold {self.bytes_held >> 20} MiB of the server, this client's the most",
            )

    def abort(self) -> None:
        """End every connection at once."""
        for connection in [*self.handshakes, *self.clients]:
            connection.transport.abort()
