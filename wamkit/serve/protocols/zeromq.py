"""Protocols over ZeroMQ: clients with REQ sockets, each with a dialogue of its own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.util import find_spec
from typing import Any

from ...errors import WamkitError
from ...files.install import install_hint
from ..address import address_of
from ..keys import SCHEME
from .core import RefusedError
from .peers import PeerServer


class AdapterServer(PeerServer):
    """Serves a protocol of ZeroMQ."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        if find_spec("zmq") is None:
            raise WamkitError(
                "this protocol needs pyzmq, which is not installed", install_hint("zeromq")
            )
        super().__init__(*args, **settings)

    def _listen(self, listener: socket.socket) -> AbstractAsyncContextManager[Any]:
        return self._receive(listener)

    @asynccontextmanager
    async def _receive(self, listener: socket.socket) -> AsyncIterator[None]:
        import zmq
        import zmq.asyncio

        host, port = address_of(listener)
        listener.close()  # it reserved the address; ZeroMQ binds by name
        with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as line:
            line.setsockopt(zmq.LINGER, 300)
            line.setsockopt(zmq.MAXMSGSIZE, self.limits.message)
            line.setsockopt(zmq.RCVHWM, 4)
            line.setsockopt(zmq.IPV6, int(":" in host))
            line.bind(f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}")
            tasks: set[asyncio.Task[None]] = set()

            async def receive() -> None:
                while True:
                    while len(tasks) > self.limits.clients:  # what it sends is left to ZeroMQ
                        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    frames = await line.recv_multipart()
                    if len(frames) != 3 or frames[1]:
                        continue  # not of a REQ socket, which could not be answered
                    task = asyncio.create_task(self._respond(line, frames[0], frames[2]))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

            receiving = asyncio.create_task(receive())
            try:
                yield
            finally:
                receiving.cancel()
                if tasks:
                    await asyncio.wait(tasks, timeout=1)
                for task in [receiving, *tasks]:
                    task.cancel()
                    with suppress(asyncio.CancelledError, Exception):
                        await task

    async def _respond(self, line: Any, identity: bytes, message: bytes) -> None:
        """Answer one message: a REQ socket sends no other before it has the answer."""
        call = None
        try:
            with self.count_message(len(message)):
                call = await self.decode(self.adapter, message)
                if not self.keys.accept(f"{SCHEME} {call.api_key}"):
                    raise RefusedError("Unauthorized: send api_token with a key of the server", 401)
                dialogue = self.dialogue(identity)
                answer = await self.answer(dialogue, self.adapter, call)
        except Exception as error:
            answer = self.adapter.refuse(call, str(self.describe(error)))
        await line.send_multipart([identity, b"", answer])
