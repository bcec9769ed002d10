"""Client of a policy server on another machine or in another process; imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep
from typing import Any, Self

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from ..errors import BusyError, WamkitError
from ..files.pixels import to_jpeg
from ..policy.moments import expect_episode
from .codec import LIMIT, pack, unpack
from .limits import BUSY
from .quoting import truncate_text

TRY_AGAIN = 1013
"""Close code of a connection that had to make room for others."""


class Client:
    """A connection of a robot to a server (`wamkit serve`), with its own session.

        with Client("192.168.0.7") as policy:
            reply = policy.infer({"observation/front": image, "prompt": "pick up the cup"})
            reply["actions"]  # [N, A] float32, in physical units

    `metadata` holds the keys that the policy expects, and the names of its actions. A lost
    connection is restored for up to `timeout` seconds, and continues the session. `api_key` is sent
    to a server that wants one. With `jpeg`, a quality from 1 to 95, images of 8 bits are sent as
    JPEG: some 20 times less to send, and slightly other pixels. Raises WamkitError if no server
    answers within that time, or if the server dropped a session that has memory.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 8000,
        *,
        timeout: float = 10,
        api_key: str | None = None,
        jpeg: int | None = None,
    ) -> None:
        self.address = f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"
        self._timeout, self._count, self._anew = timeout, 0, False
        self._episode = 0  # counts resets, also those while a request is in flight
        self._headers = {} if api_key is None else {"Authorization": f"Api-Key {api_key}"}
        self._jpeg = jpeg
        self._line: ClientConnection
        self.session: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        try:
            self._connect(timeout)
        except InvalidStatus as error:
            raise WamkitError(
                f"{self.address} refuses this client: {_refusal(error)}",
                "give a key of the server: Client(..., api_key=KEY), or --api-key-file FILE"
                if error.response.status_code == 401
                else "read the message of the server, and try again later",
            ) from None
        except (OSError, WebSocketException, _BrokenError) as error:
            raise WamkitError(
                f"no policy answers at {self.address}: {error}",
                f"start one there: wamkit serve POLICY --host {host} --port {port}",
            ) from None

    def _connect(self, timeout: float) -> None:
        """Connect, with the previous session if there was one, and receive the greeting."""
        query = f"/?session={self.session['id']}" if self.session else ""
        # Directly: a robot's images have no business with a proxy.
        self._line = connect(
            self.address + query,
            compression=None,
            max_size=LIMIT,
            open_timeout=timeout,
            proxy=None,
            additional_headers=self._headers,
        ).__enter__()
        greeting = self._receive()
        self.session = greeting.pop("session", {})
        self.metadata = greeting

    def infer(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The reply to an observation: `actions`, `server_timing`, `policy_timing`, `num_images`.

        Raises WamkitError with the message of the server if it refuses the observation, BusyError
        if it may be sent again later, and WamkitError if `reset` was called meanwhile.
        """
        anew, episode = {"reset": True} if self._anew else {}, self._episode
        self._count += 1
        number = {"request": self._count} if self.session else {}
        if self._jpeg is not None:
            observation = compress_images(observation, self._jpeg)
        request = pack({**observation, **anew, **number})
        try:
            reply = self._receive(request)
        except _BrokenError as broken:
            self._reconnect(str(broken), anew=bool(anew or observation.get("reset")))
            try:
                reply = self._receive(request)
            except _BrokenError as error:
                raise self._closed_error(str(error)) from None
        expect_episode(episode, self._episode, "client")
        self._anew = False
        return reply

    def _reconnect(self, why: str, *, anew: bool) -> None:
        """Restore a broken connection. Raises WamkitError if the episode cannot continue."""
        end, pause = monotonic() + self._timeout, 0.1
        while True:
            try:
                self._connect(max(0.1, end - monotonic()))
                break
            except (OSError, WebSocketException, _BrokenError) as error:
                if isinstance(error, InvalidStatus):
                    error = _BrokenError(_refusal(error))
                if monotonic() + pause > end:
                    raise self._closed_error(f"{why}; and no server answers now: {error}") from None
                sleep(pause)
                pause = min(2 * pause, 2.0)
        if self.metadata.get("stateful") and not self.session.get("resumed") and not anew:
            self._line.close()
            raise WamkitError(
                f"the connection to {self.address} broke ({why}), and the server no longer has "
                "this session",
                "begin a new episode with a new Client; `wamkit serve --session-timeout` sets how "
                "long sessions are kept",
            )

    def _closed_error(self, why: str) -> WamkitError:
        return WamkitError(
            f"{self.address} has closed the connection: {why}",
            "read the message of the server; a new Client begins a new session",
        )

    def reset(self) -> None:
        """Begin a new episode with the next observation; from any thread."""
        self._anew = True
        self._episode += 1

    def close(self) -> None:
        """Close the connection; the server drops this session."""
        self._line.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def _receive(self, request: bytes | None = None) -> dict[str, Any]:
        """Send a request, if there is one, and receive the next message."""
        try:
            if request is not None:
                self._line.send(request)
            answer = self._line.recv()
        except ConnectionClosed as error:
            if _broke(error):
                raise _BrokenError(str(error)) from None
            raise self._closed_error(truncate_text(str(error))) from None
        except BaseException:
            # The reply is still to come, and would be taken for that to the next request.
            self._line.close()
            raise
        if isinstance(answer, str):
            if answer.startswith(BUSY):
                raise BusyError(f"{self.address} says: {truncate_text(answer)}")
            raise WamkitError(f"{self.address} says: {truncate_text(answer)}")
        found: dict[str, Any] = unpack(answer)
        return found


def compress_images(observation: Mapping[str, Any], quality: int) -> dict[str, Any]:
    """The observation with images uint8 [height, width, 3] as JPEG files, several as a list.

    Depth and other values stay as they are. Raises WamkitError if `quality` is not from 1 to 95.
    """
    if not 1 <= quality <= 95:
        raise WamkitError(f"jpeg = {quality}; expected a quality from 1 to 95", "90 is a good one")
    found = dict(observation)
    for key, value in observation.items():
        if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.shape[-1:] != (3,):
            continue
        if value.ndim == 3:
            found[key] = to_jpeg(value, quality)
        elif value.ndim == 4:
            found[key] = [to_jpeg(image, quality) for image in value]
    return found


class _BrokenError(Exception):
    """A connection that broke, and that neither side closed on purpose."""


def _refusal(error: InvalidStatus) -> str:
    """Message of a server that refuses a connection."""
    body = truncate_text((error.response.body or b"").decode("utf-8", "replace").strip(), 300)
    return f"HTTP {error.response.status_code}{': ' if body else ''}{body}"


def _broke(error: ConnectionClosed) -> bool:
    """True if no close frame came, or one that allows to reconnect."""
    ends = [end for end in (error.rcvd, error.sent) if end is not None]
    if any("keepalive" in end.reason or end.code == TRY_AGAIN for end in ends):
        return True
    return error.rcvd is None and not (error.sent is not None and error.sent.code == 1000)
