"""A websocket connection that counts the bytes it holds, and that a server can cut off."""

from __future__ import annotations

import asyncio
from collections import deque
from operator import attrgetter
from time import monotonic
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.frames import DATA_OPCODES, Frame
from websockets.protocol import State

from .limits import BUSY, Admission

FRAME = 300
"""Memory of a frame object besides its payload, in bytes, rounded up."""
FRAGMENTS = 4096
"""Frames of a message at most."""
UNREAD = 2**20
"""Bytes that wait at most for a client that does not read; a chunk has a few thousand."""
BURST, RATE = 1000, 10
"""Pings and pongs that a client may send: a burst, and a rate per second."""
TOO_BIG, POLICY = 1009, 1008

unparsed = attrgetter("reader.buffer")
"""Of a websockets protocol: the bytes that came and are no whole frame yet."""


class Connection(ServerConnection):
    """One client of a server.

    Frames are counted from the network to their answer: those of a message that is half there,
    those of messages that wait, and the message that is being answered.
    """

    def __init__(self, *args: Any, admission: Admission, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.admission = admission
        self.served = False
        """True once a request of its session was answered with actions."""
        self.answering = False
        """True while its request is computed, and until the reply is sent."""
        self.bytes_counted = 0
        """Bytes that the admission has counted last."""
        self._begun = monotonic()
        self._controls = 0
        self._partial = self._fragments = 0
        self._complete: deque[int] = deque()  # bytes of each message that waits
        self._waiting = 0  # their sum
        self._current = 0  # bytes of the message that the handler has
        self.ended = False
        """True once the connection is closed by either side."""

    @property
    def bytes_unanswered(self) -> int:
        """Bytes of unprocessed messages, freed if this connection ends."""
        if self.ended:
            return 0
        return len(unparsed(self.protocol)) + self._partial + self._waiting

    @property
    def bytes_held(self) -> int:
        """Bytes of all messages that are here."""
        return self.bytes_unanswered + self._current

    @property
    def pending(self) -> bool:
        """True if a whole request is here that has no answer yet."""
        return bool(self._complete) or self._current > 0

    @property
    def idle(self) -> bool:
        """True if no request was ever answered with actions, and none waits."""
        return not self.served and not self.pending

    async def next_message(self) -> str | bytes:
        """The next message of the client; the previous one is no longer counted.

        Raises ConnectionClosed if there is none any more.
        """
        self._current = 0
        self.admission.recount(self)
        message = await self.recv()
        self._current = self._complete.popleft()
        self._waiting -= self._current
        return message

    def hold(self, nbytes: int) -> str:
        """Count the images of the message that is being answered, as large as they are decoded.

        Returns why they are too many, or nothing.
        """
        more = nbytes - self._current
        if more <= 0:
            return ""
        held, limit = self.admission.bytes_held, self.admission.limits.buffer
        if held + more > limit:
            return (
                f"{BUSY}: clients hold {held >> 20} MiB, and images of "
                f"{nbytes >> 20} MiB are more than it takes\n  hint: send smaller images"
            )
        self._current = nbytes
        self.admission.recount(self)
        return ""

    def cut(self, code: int, reason: str) -> None:
        """End the connection at once, with a close frame if the client's buffer has room for it.

        The reason has at most 123 bytes.
        """
        if self.ended:
            return
        if self.protocol.state is State.OPEN:
            self.protocol.fail(code, reason)
            for data in self.protocol.data_to_send():
                if data:
                    self.transport.write(data)
        self.transport.abort()
        self.ended = True
        self.admission.leave(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection before its handshake."""
        super().connection_made(transport)
        self.admission.arrive(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop counting it."""
        super().connection_lost(exc)
        self.ended = True
        self.admission.leave(self)

    def data_received(self, data: bytes) -> None:
        """Receive bytes from the network, and count them."""
        super().data_received(data)
        if self.transport.get_write_buffer_size() > UNREAD:
            self.cut(POLICY, "does not read the data it is sent")
        self.admission.recount(self)

    def process_event(self, event: Any) -> None:
        """Count a frame before it is handled."""
        super().process_event(event)
        if not isinstance(event, Frame):
            return
        if event.opcode not in DATA_OPCODES:
            self._controls += 1
            if self._controls > BURST + RATE * (monotonic() - self._begun):
                self.cut(POLICY, "too many pings")
            return
        self._partial += len(event.data) + FRAME
        self._fragments += 1
        if self._fragments > FRAGMENTS:
            self.cut(TOO_BIG, f"a message of more than {FRAGMENTS} frames")
        if event.fin:
            self._complete.append(self._partial)
            self._waiting += self._partial
            self._partial = self._fragments = 0
