"""Protocols in which a policy is served: one core, and an adapter for each of them.

An adapter (`adapter`) decodes the messages of a protocol to observations with a robot's keys, and
encodes replies; it knows neither the policy nor the socket. A transport (`websockets`, `http`,
`zeromq`) carries messages between clients and the core (`core`), which is `wamkit.serve.server`.
Importing this package imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...config.spec import PolicySpec
    from ..robot_map import RobotMap
    from ..server import Server

PROTOCOLS = {
    "openpi": "openpi",
    "auto": "openpi, RoboArena or starVLA, by the first message",
    "roboarena": "RoboArena and DreamZero",
    "starvla": "starVLA",
    "gr00t": "Isaac GR00T N1.6 and N1.7, over ZeroMQ",
    "cosmos": "Cosmos Policy, over HTTP",
    "sglang": "SGLang's action API, over HTTP",
}
"""Name of a protocol -> whose clients speak it."""

_ADAPTERS = {
    "auto": ("auto", "AutoAdapter", "websockets"),
    "roboarena": ("roboarena", "RoboArenaAdapter", "websockets"),
    "starvla": ("starvla", "StarVlaAdapter", "websockets"),
    "gr00t": ("gr00t", "Gr00tAdapter", "zeromq"),
    "cosmos": ("cosmos", "CosmosAdapter", "http"),
    "sglang": ("sglang", "SglangAdapter", "http"),
}
"""Name -> module and class of its adapter, and module of its transport."""


def robot_of(
    protocol: str, spec: PolicySpec, robot: RobotMap | None, renamed: Mapping[str, str]
) -> RobotMap | None:
    """The robot map of a server, checked against a policy; None for openpi's keys as they are.

    `robot`: a robot file that was chosen. `renamed`: view -> key. Raises WamkitError if they do not
    fit the policy.
    """
    from ..robot_map import RobotMap, plain_robot, read_robot

    if protocol != "openpi" and robot is None:
        adapter = _adapter(protocol)
        if adapter.robot:
            robot = read_robot(adapter.robot)
        else:
            robot, renamed = plain_robot(spec, adapter.image, adapter.state, renamed), {}
    if robot is None:
        return None
    if renamed:
        by_key = {camera.key: camera for camera in robot.cameras.values()}
        robot.bind(spec, renamed)  # raises if there is no such view or key
        cameras = {**robot.cameras, **{view: by_key[key] for view, key in renamed.items()}}
        robot = RobotMap.model_construct(**{**dict(robot), "cameras": cameras})
    robot.bind(spec)
    return robot


def serve_protocol(protocol: str, robot: RobotMap, *args: Any, **settings: Any) -> Server:
    """The server of a protocol; further arguments are those of `wamkit.serve.server.Server`.

    Raises WamkitError if a package is missing, or the robot does not fit the policy.
    """
    transport = import_module(f".{_ADAPTERS[protocol][2]}", __name__)
    made: Server = transport.AdapterServer(_adapter(protocol), *args, robot=robot, **settings)
    return made


def _adapter(protocol: str) -> Any:
    module, name, _ = _ADAPTERS[protocol]
    return getattr(import_module(f".{module}", __name__), name)
