"""Sessions that outlive a connection: a client that reconnects continues its episode.

The server names a session in its greeting; a client that connects to `/?session=NAME` takes it up
again. A name is a secret: a client that presents it takes over the session, and the previous
connection is closed. All of this happens in the server's event loop.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection

from ..policy.session import Session
from .quoting import truncate_text

log = logging.getLogger("wamkit.serve")

TAKEN_OVER = 4001  # close code: another connection has presented the session


@dataclass(frozen=True)
class SessionTimeouts:
    """Timeouts of idle clients and of sessions without a connection, in seconds."""

    ping_interval: float | None = 20
    """From one ping to the next; None for no pings."""
    ping_timeout: float | None = 600
    """A client that does not answer a ping for so long is dropped; None for never."""
    session_timeout: float = 600
    """How long the session of a disconnected client is kept."""
    kept: int = 8
    """Sessions that are kept at most without a client; the one that left first gives way."""


@dataclass
class ServerSession:
    """The session of one client, and the connection that has it."""

    name: str
    session: Session
    owner: ServerConnection | None
    last_request_time: float = field(default_factory=monotonic)
    number: int | None = None
    """Number of the newest request, if the client numbers them."""
    reply: str | bytes | None = None
    """To that request: if it was lost with the connection, it is sent again."""
    timer: asyncio.TimerHandle | None = None
    served: bool = False
    """True once a request was answered with actions."""

    @property
    def short(self) -> str:
        """A prefix of the name: enough for a log, too little to take over the session."""
        return self.name[:6]


class Sessions:
    """All sessions of a server, those with a client and those that wait for one."""

    def __init__(self, make: Callable[[], Session], patience: SessionTimeouts) -> None:
        self.make, self.patience = make, patience
        self.held: dict[str, ServerSession] = {}

    def take(self, connection: ServerConnection) -> tuple[ServerSession, bool]:
        """Return the session that a connection requests, or a new one, and whether it existed."""
        wanted = _requested_name(connection)
        known = self.held.get(wanted or "")
        peer = _peer(connection)
        if known is None:
            held = ServerSession(secrets.token_hex(16), self.make(), connection)
            self.held[held.name] = held
            lost = "" if wanted is None else f"; {wanted[:6]!r}, which it asked for, is not here"
            log.info("%s connected: session %s%s", peer, held.short, lost)
            return held, False
        if known.timer is not None:
            known.timer.cancel()
            known.timer = None
        before, known.owner = known.owner, connection
        if before is not None:
            log.info("session %s: %s takes it from %s", known.short, peer, _peer(before))
            task = asyncio.ensure_future(before.close(TAKEN_OVER, "taken over by another client"))
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        else:
            silent = monotonic() - known.last_request_time
            log.info("%s is back: session %s, silent for %.0f s", peer, known.short, silent)
        return known, True

    def leave(
        self, held: ServerSession, connection: ServerConnection, *, broken: bool = False
    ) -> None:
        """Handle the end of a connection; keep its session unless the client closed it."""
        why, silent = _why(connection), monotonic() - held.last_request_time
        why = "is disconnected after a bug in the server" if broken else why
        line = f"{_peer(connection)} {why}, silent for {silent:.0f} s"
        if held.owner is not connection:
            log.info("%s: session %s has another client", line, held.short)
            return
        held.owner = None
        goodbye = connection.protocol.close_rcvd
        if broken or (goodbye is not None and goodbye.code == 1000) or not self.patience.kept:
            self.held.pop(held.name, None)
            log.info("%s: session %s ends", line, held.short)
            return
        wait = self.patience.session_timeout
        log.info("%s: session %s is kept for %g s", line, held.short, wait)
        held.timer = asyncio.get_running_loop().call_later(wait, self._expire, held)
        waiting = [h for h in self.held.values() if h.owner is None]
        for old in sorted(waiting, key=lambda h: h.last_request_time)[: -self.patience.kept]:
            self._drop(old, f"more than {self.patience.kept} wait for their clients")

    def clear(self) -> None:
        """Drop all sessions at shutdown."""
        for held in self.held.values():
            if held.timer is not None:
                held.timer.cancel()
        self.held.clear()

    def _expire(self, held: ServerSession) -> None:
        self._drop(held, f"no client reconnected within {self.patience.session_timeout:g} s")

    def _drop(self, held: ServerSession, why: str) -> None:
        if held.timer is not None:
            held.timer.cancel()
        if self.held.pop(held.name, None) is not None:
            log.info("session %s ends: %s", held.short, why)


def _requested_name(connection: ServerConnection) -> str | None:
    path = connection.request.path if connection.request is not None else ""
    try:
        return next(iter(parse_qs(urlsplit(path).query).get("session", [])), None)
    except ValueError:
        return None


def _peer(connection: ServerConnection) -> str:
    address: Any = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "a client"


def _why(connection: ServerConnection) -> str:
    """Describe how a connection ended."""
    sent, received = connection.protocol.close_sent, connection.protocol.close_rcvd
    if sent is not None and "keepalive" in sent.reason:
        return "answered no ping (keepalive timeout) and was dropped"
    if received is not None:
        reason = f": {truncate_text(received.reason)}" if received.reason else ""
        return f"closed the connection (code {received.code}{reason})"
    if sent is not None:
        return f"was disconnected (code {sent.code}{': ' if sent.reason else ''}{sent.reason})"
    return "vanished without a close frame"
