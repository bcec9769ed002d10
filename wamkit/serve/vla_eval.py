"""A policy as a model server of vla-eval, whose benchmarks ask for one action at a time.

A benchmark sends what it sees at every step, and gets one action back. So each connection keeps the
actions of a chunk that are left, and asks the policy when there are none, as a simulator here does.
Requests of several connections are computed in one batch. HTTP: `/health` and `/config`.
"""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from ..config.seeds import fold_seed
from ..errors import WamkitError
from ..policy.policy import Policy
from ..simulate.environment import EnvObservation
from ..simulate.policy_runner import RunningEpisode
from .codec import pack, unpack
from .connection import Connection
from .episode_requests import EpisodeRequests
from .keys import ApiKeys
from .limits import Limits
from .quoting import list_values
from .routes import SHUTDOWN, Routes, respond
from .server import BUG, GOING_AWAY, Server, describe_failure
from .server import Request as PolicyRequest
from .sessions import ServerSession, SessionTimeouts
from .vla_eval_codec import decode_payload, pack_message, unpack_message

VERSION = 1
"""Of vla-eval's protocol."""
JSON = "application/json"


@dataclass
class Episode:
    """What one connection is playing."""

    running: RunningEpisode = field(default_factory=lambda: RunningEpisode(0, {}))
    left: list[NDArray[np.float32]] = field(default_factory=list)
    """Actions of the last chunk that are still to be sent."""
    images: int = 1
    """Images of the next request."""


class VlaEvalRoutes(Routes):
    """`Routes` with the two paths of vla-eval."""

    limits = Limits()

    async def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer a request of HTTP; None for a websocket, whose handshake goes on."""
        path = request.path.partition("?")[0]
        if path == "/health":
            return respond(http.HTTPStatus.OK, b'{"status": "ok"}\n', JSON)
        refused = await super().answer(connection, request)
        if refused is not None or path != "/config":
            return refused
        config = {
            "max_batch_size": self.limits.batch,
            "max_wait_time": self.limits.max_wait,
        }
        return respond(http.HTTPStatus.OK, json.dumps({"config": config}).encode() + b"\n", JSON)


class VlaEvalServer(Server):
    """`Server` for vla-eval's benchmarks; `named`: view -> name of a benchmark's image."""

    protocol = "vla-eval"

    def __init__(
        self,
        policy: Policy,
        name: str = "",
        named: Mapping[str, str] | None = None,
        patience: SessionTimeouts | None = None,
        limits: Limits | None = None,
        keys: ApiKeys | None = None,
        watch: bool = False,
        *,
        execute_steps: int | None = None,
    ) -> None:
        super().__init__(policy, name, None, patience, limits, keys, watch)
        self.routes = VlaEvalRoutes(
            self.admission, self.metrics, keys or ApiKeys(), self._gauges, self.watch, self._readers
        )
        self.routes.limits = self.limits
        spec, stateful = policy.spec, policy.paradigm.stateful
        chunk = spec.actions.chunk_size
        self.execute_steps = execute_steps or (chunk if stateful else max(1, chunk // 2))
        if self.execute_steps > chunk or (stateful and self.execute_steps != chunk):
            raise WamkitError(
                f"--execute-steps {self.execute_steps} of a chunk of {chunk}",
                f"--execute-steps {chunk}" + ("" if stateful else " or less"),
            )
        views = [view.name for view in spec.cameras.views]
        if unknown := sorted(set(named or {}) - set(views)):
            raise WamkitError(
                f"the policy has no view {unknown[0]!r}; it has {', '.join(views)}",
                f"write {views[0]}=NAME",
            )
        self.named = {view: (named or {}).get(view, view) for view in views}
        metadata = self.handler.metadata()
        cameras = {metadata["cameras"][view]["key"]: view for view in views}
        self.requests = EpisodeRequests(metadata, cameras)
        self.reach = 1 + max(self.execute_steps, *(-step for step in metadata["image_steps"]))
        """Steps after which a look is not needed any more."""

    def hello(self) -> dict[str, Any]:
        """What the server says of itself, and what a benchmark is to send."""
        spec = self.policy.spec
        wanted = {"send_wrist_image": len(self.named) > 1, "send_state": spec.state.size > 0}
        metadata = self.handler.metadata()
        return {
            "harness_version": f"wamkit {metadata['wamkit']}",
            "protocol_version": VERSION,
            "model_server": metadata["policy"],
            "capabilities": {},
            "observation_params": {key: True for key, value in wanted.items() if value},
        }

    async def _client(self, connection: Connection) -> None:
        """One benchmark, from its greeting to its end."""
        held, _ = self.sessions.take(connection)
        episode, broken = Episode(), False
        try:
            while not self.admission.draining:
                message = await connection.next_message()
                held.last_request_time, seq = monotonic(), 0
                try:
                    kind, payload, seq = unpack_message(message)
                    if kind == "hello":
                        await connection.send(pack_message("hello", self.hello(), seq))
                    elif kind == "episode_start":
                        episode = self._begin(held, payload)
                    elif kind == "observation":
                        action = await self._act(held, connection, episode, payload)
                        await connection.send(pack_message("action", {"actions": action}, seq))
                except WamkitError as error:
                    self.metrics.count("refused")
                    await connection.send(pack_message("error", {"error": str(error)}, seq))
            await connection.close(GOING_AWAY, SHUTDOWN)
        except ConnectionClosed:
            return
        except Exception as error:
            broken = True
            self.metrics.count("failed")
            with suppress(ConnectionClosed):
                text = describe_failure(error)
                await connection.send(pack_message("error", {"error": text}, 0))
                await connection.close(BUG, type(error).__name__)
        finally:
            self.sessions.leave(held, connection, broken=broken)

    def _begin(self, held: ServerSession, payload: Mapping[str, Any]) -> Episode:
        """A new episode, whose number decides the noise."""
        held.session.reset()
        task = payload.get("task")
        number = task.get("episode_idx", 0) if isinstance(task, dict) else 0
        seed = number if type(number) is int and number >= 0 else 0
        return Episode(RunningEpisode(fold_seed(seed), {}))

    async def _act(
        self,
        held: ServerSession,
        connection: Connection,
        episode: Episode,
        payload: Mapping[str, Any],
    ) -> NDArray[np.float32]:
        """The next action [A]; asks the policy if none is left."""
        one = episode.running
        one.seen[one.step] = self._parse(decode_payload(payload))
        if not episode.left:
            request = self.requests.make(one, episode.images)
            reply = await self._infer(held, connection, request)
            episode.left = list(reply["actions"][: self.execute_steps])
            episode.images = int(reply["num_images"])
            one.decisions += 1
        one.step += 1
        one.seen.pop(one.step - self.reach, None)
        return episode.left.pop(0)

    async def _infer(
        self, held: ServerSession, connection: Connection, request: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The reply of the policy. Raises WamkitError with its message if it refuses."""
        asked = PolicyRequest(held, connection, perf_counter(), None)
        await self._begin_reading(asked, pack(request))
        self._hold(asked)
        try:
            reply: Any = await self.batcher.submit(self._job(asked))
        finally:
            connection.answering = False
        if isinstance(reply, str):
            what, _, hint = reply.partition("\n  hint: ")
            raise WamkitError(what, hint)
        if reply is None:
            raise WamkitError(SHUTDOWN, "connect again")
        found: dict[str, Any] = unpack(reply)
        return found

    def _parse(self, payload: Mapping[str, Any]) -> EnvObservation:
        """What the benchmark sees. Raises WamkitError if a part of it is missing."""
        images = payload.get("images")
        images = images if isinstance(images, dict) else {}
        alone = len(self.named) == len(images) == 1
        chosen = {v: next(iter(images)) if alone else name for v, name in self.named.items()}
        missing = [name for name in chosen.values() if name not in images]
        state = payload.get("states", payload.get("state"))
        if missing or (state is None and self.policy.spec.state.size):
            faults = [f"no image {name!r}" for name in missing]
            faults += [] if state is not None or not self.policy.spec.state.size else ["no state"]
            view = next((v for v, name in chosen.items() if name in missing), "VIEW")
            raise WamkitError(
                f"the observation has {' and '.join(faults)}; found images {list_values(images)}",
                f"serve with --camera-map {view}=NAME, and have the benchmark send what is missing",
            )
        seen = {view: images[name] for view, name in chosen.items()}
        values: Any = np.zeros(0, np.float32) if state is None else state
        return EnvObservation(seen, values, payload.get("task_description", ""))
