"""Check that a policy fits the robot of an environment, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..config.parts import Conflict
from ..config.spec import PolicySpec
from ..errors import did_you_mean
from .environment import Robot


def views_of(spec: PolicySpec, robot: Robot, named: Mapping[str, str]) -> dict[str, str]:
    """view of the policy -> camera of the environment, by `named` or by the same name.

    A single view is mapped to a single camera under any name.
    """
    views = [view.name for view in spec.cameras.views]
    if len(views) == len(robot.cameras) == 1 and not named:
        return {views[0]: next(iter(robot.cameras))}
    return {view: named.get(view, view) for view in views}


def conflicts(
    spec: PolicySpec,
    robot: Robot,
    named: Mapping[str, str],
    execute_steps: int,
    stateful: bool = False,
) -> Iterator[Conflict]:
    """Yield every reason why the policy cannot act in the environment."""
    views = [view.name for view in spec.cameras.views]
    cameras = list(robot.cameras)
    for view in sorted(set(named) - set(views)):
        yield Conflict(
            between=("--camera-map",),
            why=f"the policy has no view {view!r}; it has {', '.join(views)}",
            hint=did_you_mean(view, views, f"write {views[0]}=CAMERA"),
        )
    for view, camera in views_of(spec, robot, named).items():
        if camera not in robot.cameras:
            yield Conflict(
                between=("cameras.views", "environment"),
                why=f"view {view!r} looks for camera {camera!r}; the environment has "
                f"{', '.join(cameras)}",
                hint=did_you_mean(camera, cameras, f"--camera-map {view}={cameras[0]}"),
            )
    for place, its in enumerate(spec.cameras.views):
        if its.value_range is not None:
            yield Conflict(
                between=(f"cameras.views.{place}.value_range", "environment"),
                why=f"view {its.name!r} takes deep images, an environment shows 8-bit color",
                hint="evaluate a policy that was trained on color",
            )
    if len(spec.actions.executed) != len(robot.actions):
        yield Conflict(
            between=("actions.groups", "environment"),
            why=f"an action of the policy has {len(spec.actions.executed)} values, the environment "
            "takes "
            f"{len(robot.actions)}: {', '.join(robot.actions)}",
            hint="evaluate a policy that was trained for this robot",
        )
    if abs(spec.actions.control_hz - robot.control_hz) > 1e-3 * robot.control_hz:
        yield Conflict(
            between=("actions.control_hz", "environment"),
            why=f"the policy acts at {spec.actions.control_hz:g} Hz, the environment at "
            f"{robot.control_hz:g} Hz",
            hint="if it learned from data at that rate: --set "
            f"actions.control_hz={robot.control_hz:g}",
        )
    if spec.state.size not in (0, len(robot.state)):
        yield Conflict(
            between=("state.size", "environment"),
            why=f"the policy reads a state of {spec.state.size} values, the environment returns "
            f"{len(robot.state)}: {', '.join(robot.state) or 'none'}",
            hint="evaluate a policy that was trained for this robot",
        )
    if execute_steps > spec.actions.chunk_size:
        yield Conflict(
            between=("--execute-steps", "actions.chunk_size"),
            why=f"{execute_steps} actions of a chunk of {spec.actions.chunk_size}",
            hint=f"--execute-steps {spec.actions.chunk_size} or less",
        )
    if stateful:
        yield from _conflicts_of_memory(spec, execute_steps)


def _conflicts_of_memory(spec: PolicySpec, execute_steps: int) -> Iterator[Conflict]:
    """Conflicts of a stateful policy, which needs whole chunks, and images that divide them."""
    video, chunk = spec.video, spec.actions.chunk_size
    if execute_steps != chunk:
        yield Conflict(
            between=("--execute-steps", "paradigm"),
            why="a stateful policy executes its chunks whole, and --execute-steps is "
            f"{execute_steps}",
            hint=f"--execute-steps {chunk}, or leave it out",
        )
    if (video.num_frames - video.num_observed) * video.frame_stride != chunk:
        yield Conflict(
            between=("video", "actions.chunk_size"),
            why=f"a chunk of {chunk} actions shows {video.num_frames - video.num_observed} new "
            "images, "
            f"one every {video.frame_stride} actions",
            hint="a stateful policy needs (frames - context) * every = chunk",
        )
