"""Protocols over websockets: a greeting, then an answer to every message."""

from __future__ import annotations

from contextlib import suppress

from websockets.exceptions import ConnectionClosed

from ..connection import Connection
from ..routes import SHUTDOWN
from ..server import BUG, GOING_AWAY
from .core import CoreServer, Dialogue


class AdapterServer(CoreServer):
    """Serves a protocol of websockets."""

    async def _client(self, connection: Connection) -> None:
        """One client, from its greeting to its end."""
        held, resumed = self.sessions.take(connection)
        connection.served = held.served
        adapter, dialogue, broken = self.make_adapter(), Dialogue(held, connection), False
        session = {"id": held.name, "resumed": resumed, "timeout": self.patience.session_timeout}
        try:
            if (greeting := adapter.greeting(session)) is not None:
                await connection.send(greeting)
            while not self.admission.draining:
                message, call, failure = await connection.next_message(), None, None
                try:
                    call = await self.decode(adapter, message)
                    answer = await self.answer(dialogue, adapter, call)
                except ConnectionClosed:
                    raise
                except Exception as error:
                    failure = self.describe(error)
                    answer = adapter.refuse(call, str(failure))
                del message
                connection.answering = False
                await connection.send(answer)
                if failure is not None and failure.status == 500:
                    broken = True
                    await connection.close(BUG, "a bug in the server")
            await connection.close(GOING_AWAY, SHUTDOWN)
        except ConnectionClosed:
            return
        finally:
            with suppress(Exception):
                connection.answering = False
            self.sessions.leave(held, connection, broken=broken)
