"""A policy behind a socket in a simulator: what it declares, whether it fits, what it decides.

`wamkit serve` declares its cameras, state, actions and rates in the first message. Other servers of
openpi's protocol may declare nothing; their requests then hold openpi's keys:

    observation/image, observation/wrist_image    the first and the second camera
    observation/state, prompt                     the state, if there is one, and the instruction
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Self
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from ..config.parts import Conflict
from ..errors import SpecError, WamkitError, did_you_mean
from ..simulate.environment import Robot
from ..simulate.policy_runner import RunningEpisode
from .client import Client
from .episode_requests import EpisodeRequests

IMAGES = ("observation/image", "observation/wrist_image")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of ws://HOST:PORT. Raises WamkitError if it is none."""
    try:
        found = urlsplit(text)
        host, port = found.hostname, found.port
    except ValueError:
        host = port = None
    if not text.startswith("ws://") or not host or not port:
        raise WamkitError(f"{text!r} is no address of a server", "write ws://HOST:PORT")
    return host, port


class RemoteActor:
    """One connection for each place, so that each episode has its own session.

    The requests of a batch are sent at the same time. Raises SpecError with every reason why the
    policy does not fit the robot, and WamkitError if no server answers.
    """

    def __init__(
        self,
        address: str,
        robot: Robot,
        camera_map: Mapping[str, str],
        execute_steps: int | None,
        places: int,
        api_key: str | None = None,
    ) -> None:
        """`camera_map`: view, or key of a server that declares nothing -> camera.

        `api_key`: for a server that wants one.
        """
        host, port = parse_address(address)
        self._stack = ExitStack()
        with ExitStack() as stack:
            self.clients = [
                stack.enter_context(Client(host, port, api_key=api_key)) for _ in range(places)
            ]
            self.robot, self.metadata = robot, self.clients[0].metadata
            self.declared = "cameras" in self.metadata
            conflicts = list(_conflicts(self.metadata, robot, camera_map, execute_steps))
            if conflicts:
                raise SpecError(conflicts, f"{address} in this environment")
            self._threads = stack.enter_context(ThreadPoolExecutor(places, "client"))
            self._stack = stack.pop_all()
        self.cameras = _cameras_of(self.metadata, robot, camera_map)
        self.execute_steps = execute_steps or _default_steps(self.metadata)
        self._requests = EpisodeRequests(self.metadata, self.cameras, state=bool(robot.state))
        self._images = [1] * places  # of the next request of each place
        self.every = self._requests.every(self.execute_steps or 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the results, as plain data, with a fingerprint of what is declared."""
        text = json.dumps(self.metadata, sort_keys=True, default=str)
        return {
            "fingerprint": hashlib.sha256(text.encode()).hexdigest()[:32],
            "declared": json.loads(text),
            "execute_steps": self.execute_steps,
            "cameras": self.cameras,
        }

    def begin(self, place: int) -> None:
        """Another episode begins in a place."""
        if self.declared:  # others know no reset
            self.clients[place].reset()

    def decide(
        self, active: Mapping[int, RunningEpisode], places: Sequence[int]
    ) -> dict[int, NDArray[np.float32]]:
        """place -> actions [K, A], of one request for each active episode."""
        asked = {
            place: self._threads.submit(self._ask, place, one) for place, one in active.items()
        }
        return {place: answer.result() for place, answer in asked.items()}

    def _ask(self, place: int, one: RunningEpisode) -> NDArray[np.float32]:
        reply = self.clients[place].infer(self._requests.make(one, self._images[place]))
        one.decisions += 1
        self._images[place] = int(reply.get("num_images", 1))
        actions = np.asarray(reply.get("actions"))
        size = len(self.robot.actions)
        if actions.ndim != 2 or actions.dtype.kind != "f" or actions.shape[1] != size:
            raise WamkitError(
                f"{self.clients[place].address} replies with actions of {actions.dtype} "
                f"{list(actions.shape)}; the environment takes [steps, {size}]: "
                f"{', '.join(self.robot.actions)}",
                "evaluate a policy that was trained for this robot",
            )
        steps = self.execute_steps or max(1, len(actions) // 2)
        one.chunk = actions[:steps].astype(np.float32)
        return one.chunk


def _default_steps(metadata: Mapping[str, Any]) -> int | None:
    """Actions executed of each chunk; None for half of each reply, where its length is unknown."""
    chunk = metadata.get("chunk_size")
    if not isinstance(chunk, int):
        return None
    return chunk if metadata.get("stateful") else max(1, chunk // 2)


def _cameras_of(
    metadata: Mapping[str, Any], robot: Robot, camera_map: Mapping[str, str]
) -> dict[str, str]:
    """Key of a request -> camera of the environment."""
    cameras = list(robot.cameras)
    if "cameras" not in metadata:
        # openpi asks for two images at most: a robot may have fewer cameras, and others are unseen.
        return dict(camera_map) or dict(zip(IMAGES, cameras, strict=False))
    views = metadata["cameras"]
    if len(views) == len(cameras) == 1 and not camera_map:
        return {next(iter(views.values()))["key"]: cameras[0]}
    return {about["key"]: camera_map.get(view, view) for view, about in views.items()}


def _conflicts(
    metadata: Mapping[str, Any],
    robot: Robot,
    camera_map: Mapping[str, str],
    execute_steps: int | None,
) -> Iterator[Conflict]:
    """Yield every reason why the policy cannot act in the environment, as far as it declares."""
    cameras, server = list(robot.cameras), "server"
    views = list(metadata.get("cameras", ()))
    for view in camera_map if views else ():
        if view not in views:
            yield Conflict(
                between=("--camera-map",),
                why=f"the policy has no view {view!r}; it has {', '.join(views)}",
                hint=did_you_mean(view, views, f"write {views[0]}=CAMERA"),
            )
    for key, camera in _cameras_of(metadata, robot, camera_map).items():
        if camera not in cameras:
            name = key.removeprefix("observation/") if views else key
            yield Conflict(
                between=(server, "environment"),
                why=f"{key} takes camera {camera!r}; the environment has {', '.join(cameras)}",
                hint=did_you_mean(camera, cameras, f"--camera-map {name}={cameras[0]}"),
            )
    names = metadata.get("actions")
    if isinstance(names, list) and len(names) != len(robot.actions):
        yield Conflict(
            between=(server, "environment"),
            why=f"an action of the policy has {len(names)} values, the environment takes "
            f"{len(robot.actions)}: {', '.join(robot.actions)}",
            hint="evaluate a policy that was trained for this robot",
        )
    rate = metadata.get("control_hz")
    if isinstance(rate, int | float) and abs(rate - robot.control_hz) > 1e-3 * robot.control_hz:
        yield Conflict(
            between=(server, "environment"),
            why=f"the policy acts at {rate:g} Hz, the environment at {robot.control_hz:g} Hz",
            hint="if it learned from data at that rate, serve it with --set "
            f"actions.control_hz={robot.control_hz:g}",
        )
    state = metadata["state"]["size"] if views else 0
    if state not in (0, len(robot.state)):
        yield Conflict(
            between=(server, "environment"),
            why=f"the policy reads a state of {state} values, the environment returns "
            f"{len(robot.state)}: {', '.join(robot.state) or 'none'}",
            hint="evaluate a policy that was trained for this robot",
        )
    chunk = metadata.get("chunk_size")
    whole = bool(metadata.get("stateful"))
    most = chunk if isinstance(chunk, int) else None
    if execute_steps and most and (execute_steps > most or (whole and execute_steps < most)):
        yield Conflict(
            between=("--execute-steps", server),
            why=f"{execute_steps} actions of a chunk of {most}"
            + (", which a stateful policy executes whole" if whole else ""),
            hint=f"--execute-steps {most}" + ("" if whole else " or less"),
        )
