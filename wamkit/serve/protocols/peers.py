"""Clients without a lasting connection: their dialogues, and what they may hold together."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from ..keys import ApiKeys
from ..sessions import ServerSession
from .core import CoreServer, Dialogue, Peer, RefusedError


class PeerServer(CoreServer):
    """`CoreServer` whose clients are known by a name: an address, an identity, or a session.

    A policy that remembers keeps a session for each name, at most as many as there may be clients,
    and none that was silent for `session_timeout` seconds.
    """

    def __init__(
        self,
        adapter: Any,
        policy: Any,
        name: str = "",
        renamed: Any = None,
        patience: Any = None,
        limits: Any = None,
        keys: ApiKeys | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(adapter, policy, name, renamed, patience, limits, keys, **settings)
        self.keys = keys or ApiKeys()
        self.dialogues: dict[Hashable, Dialogue] = {}
        self.bytes_in_flight = 0

    def dialogue(self, name: Hashable) -> Dialogue:
        """The dialogue with a client; a new one where nothing is remembered."""
        now = monotonic()
        if self.policy.paradigm.stateful:
            for other, held in list(self.dialogues.items()):
                if now - held.held.last_request_time > self.patience.session_timeout:
                    del self.dialogues[other]
        found = self.dialogues.pop(name, None)
        if found is None:
            peer: Any = Peer(self.limits.buffer)
            found = Dialogue(ServerSession("", self.policy.session(), peer), peer)
        found.held.last_request_time = now
        if self.policy.paradigm.stateful:
            self.dialogues[name] = found  # the newest last
            while len(self.dialogues) > self.limits.clients:
                del self.dialogues[next(iter(self.dialogues))]
        return found

    @contextmanager
    def count_message(self, nbytes: int) -> Iterator[None]:
        """Count a message while it is answered. Raises RefusedError if there are too many."""
        if (
            self.in_flight >= self.limits.clients
            or self.bytes_in_flight + nbytes > self.limits.buffer
        ):
            self.metrics.count("busy")
            raise RefusedError(
                f"the server is busy: {self.in_flight} clients wait\n  hint: send the request "
                "again later, or start `wamkit serve` with a larger --max-clients",
                503,
            )
        self.in_flight += 1
        self.bytes_in_flight += nbytes
        try:
            yield
        finally:
            self.in_flight -= 1
            self.bytes_in_flight -= nbytes

    def _gauges(self) -> dict[str, float]:
        return {**super()._gauges(), "clients": self.in_flight, "sessions": len(self.dialogues)}
