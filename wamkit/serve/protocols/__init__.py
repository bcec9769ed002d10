"""Protocols in which a policy is served: one core, and an adapter for each of them.

An adapter (`adapter`) decodes the messages of a protocol to observations with a robot's keys, and
encodes replies; it knows neither the policy nor the socket. A transport (`websockets`, `http`,
`zeromq`) carries messages between clients and the core (`core`), which is `wamkit.serve.server`.
Importing this package imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ...errors import WamkitError

if TYPE_CHECKING:
    from ...config.spec import PolicySpec
    from ..robot_map import RobotMap
    from ..server import Server

PROTOCOLS = {
    "openpi": "openpi",
    "auto": "openpi, RoboArena or starVLA, by the first message",
    "roboarena": "RoboArena",
    "dreamzero": "DreamZero, RoboArena's of before February 2026",
    "starvla": "starVLA",
    "gr00t": "Isaac GR00T N1.6 and N1.7, over ZeroMQ",
    "cosmos-policy": "Cosmos Policy, over HTTP",
    "sglang": "SGLang's action API, over HTTP",
    "vla-eval": "vla-eval's benchmarks, one action at a time",
}
"""Name of a protocol -> whose clients speak it."""

_ADAPTERS = {
    "auto": ("auto", "AutoAdapter", "websockets"),
    "roboarena": ("roboarena", "RoboArenaAdapter", "websockets"),
    "dreamzero": ("roboarena", "DreamZeroAdapter", "websockets"),
    "starvla": ("starvla", "StarVlaAdapter", "websockets"),
    "gr00t": ("gr00t", "Gr00tAdapter", "zeromq"),
    "cosmos-policy": ("cosmos_policy", "CosmosPolicyAdapter", "http"),
    "sglang": ("sglang", "SglangAdapter", "http"),
}
"""Name -> module and class of its adapter, and module of its transport."""


def robot_of(
    protocol: str, spec: PolicySpec, robot: RobotMap | None, renamed: Mapping[str, str]
) -> RobotMap | None:
    """The robot map of a server, checked against a policy.

    None where there is none: openpi's keys as they are, and vla-eval, which names images alone.

    Args:
        protocol: One of `PROTOCOLS`.
        spec: Of the policy.
        robot: A robot file that was chosen.
        renamed: View -> key of its image.

    Raises WamkitError if they do not fit the policy.
    """
    from ..robot_map import RobotMap, plain_robot, read_robot

    if protocol not in _ADAPTERS:
        if robot is not None and protocol != "openpi":
            raise WamkitError(
                f"--robot with --protocol {protocol}, which has no keys of robots",
                "leave it out; --camera-map VIEW=NAME names an image of the benchmark",
            )
    elif robot is None:
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


def check_options(protocol: str, *, watch: bool, execute_steps: int | None) -> None:
    """Raise WamkitError for a choice that a protocol does not have."""
    if execute_steps and protocol != "vla-eval":
        raise WamkitError(
            "--execute-steps is of --protocol vla-eval", "other clients choose it themselves"
        )
    transport = _ADAPTERS[protocol][2] if protocol in _ADAPTERS else "websockets"
    if watch and transport != "websockets":
        raise WamkitError(
            f"--watch does not show requests of --protocol {protocol}", "leave it out"
        )


def make_server(
    protocol: str,
    args: Sequence[Any],
    robot: RobotMap | None = None,
    *,
    watch: bool = False,
    execute_steps: int | None = None,
) -> Server:
    """The server of a protocol.

    Args:
        protocol: One of `PROTOCOLS`.
        args: Positional arguments of `wamkit.serve.server.Server`, the policy first.
        robot: What `robot_of` returned.
        watch: With a live page; of protocols over websockets.
        execute_steps: Actions executed of each chunk, where the server executes chunks.

    Raises WamkitError if a package is missing, or the protocol does not have what was chosen.
    """
    check_options(protocol, watch=watch, execute_steps=execute_steps)
    make: Any
    if protocol == "vla-eval":
        from ..vla_eval import VlaEvalServer

        make = partial(VlaEvalServer, watch=watch, execute_steps=execute_steps)
    elif protocol == "openpi" or robot is None:
        from ..server import Server

        make = partial(Server, watch=watch, robot=robot)
    else:
        transport = import_module(f".{_ADAPTERS[protocol][2]}", __name__)
        make = partial(transport.AdapterServer, _adapter(protocol), watch=watch, robot=robot)
    made: Server = make(*args)
    return made


def _adapter(protocol: str) -> Any:
    module, name, _ = _ADAPTERS[protocol]
    return getattr(import_module(f".{module}", __name__), name)
