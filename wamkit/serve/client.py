"""Asks a policy on another machine, or in another process, for actions; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from ..errors import WamkitError
from .codec import LIMIT, pack, unpack


class Client:
    """A robot's line to a server (`wamkit serve`), with a session of its own there.

        with Client("192.168.0.7") as policy:
            reply = policy.infer({"observation/front": picture, "prompt": "pick up the cup"})
            reply["actions"]  # [N, A] float32, in physical units

    `metadata` says which keys the policy wants, and what its actions are. Raises WamkitError if
    nobody answers within `timeout` seconds.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 8000, *, timeout: float = 10) -> None:
        self.address = f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
        try:
            # Directly: a robot's pictures have no business with a proxy.
            self._line = connect(
                self.address, compression=None, max_size=LIMIT, open_timeout=timeout, proxy=None
            )
        except (OSError, WebSocketException) as error:
            raise WamkitError(
                f"no policy answers at {self.address}: {error}",
                f"start one there: wamkit serve POLICY --host {host} --port {port}",
            ) from None
        self._anew = False
        self.metadata: dict[str, Any] = self._heard()

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to an observation: `actions`, `server_timing`, `policy_timing`, `pictures`.

        Raises WamkitError with the server's words if it does not take the observation.
        """
        anew = {"reset": True} if self._anew else {}
        reply = self._heard(pack({**observation, **anew}))
        self._anew = False
        return reply

    def reset(self) -> None:
        """A new episode begins with the next observation."""
        self._anew = True

    def close(self) -> None:
        """Say goodbye; the server forgets this session."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()

    def _heard(self, request: bytes | None = None) -> dict[str, Any]:
        """The next message, after a request was sent."""
        try:
            if request is not None:
                self._line.send(request)
            answer = self._line.recv()
        except ConnectionClosed as error:
            raise WamkitError(
                f"{self.address} has closed the connection: {error}",
                "see what the server says; a new Client begins a new session",
            ) from None
        except BaseException:
            # The reply is still to come, and would be taken for that to the next request.
            self._line.close()
            raise
        if isinstance(answer, str):
            raise WamkitError(f"{self.address} says: {answer}")
        found: dict[str, Any] = unpack(answer)
        return found
