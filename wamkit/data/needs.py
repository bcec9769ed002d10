"""Requirements of a policy that a data set does not meet, all at once, with hints."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from ..config.spec import PolicySpec
from ..errors import WamkitError, did_you_mean
from .findings import Finding, raise_findings
from .lerobot_format import INFO, OWN, Columns, LeRobotFolder


def expect(recording: LeRobotFolder, spec: PolicySpec, columns: Columns) -> None:
    """Raises WamkitError, with all reasons, if a data set does not meet the needs of a spec."""
    raise_findings(missing_needs(recording, spec, columns), f"{recording.folder} for this policy")


def expect_vectors(recording: LeRobotFolder, spec: PolicySpec, columns: Columns) -> None:
    """As `expect`, for actions and states only."""
    raise_findings(
        _vector_findings(recording, spec, columns), f"{recording.folder} for this policy"
    )


def missing_needs(
    recording: LeRobotFolder, spec: PolicySpec, columns: Columns
) -> Iterator[Finding]:
    """Yield every reason why the policy cannot learn from the data set."""
    yield from _view_findings(recording, spec, columns)
    yield from _vector_findings(recording, spec, columns)
    fps, control_hz = recording.fps, spec.actions.control_hz
    if abs(fps - control_hz) > 1e-6:
        yield _finding(
            f"{recording.folder} has {fps:g} frames a second, the spec {control_hz:g} actions",
            f"--set actions.control_hz={fps:g}, and --set video.frame_stride={_every(spec, fps)} "
            "for the "
            "same "
            "images a second",
        )
    try:
        has_instruction = any(recording.tasks.values()) or any(
            e.tasks for e in recording.episodes_and_faults[0]
        )
    except WamkitError:  # reported when the metadata is read
        has_instruction = True
    if not has_instruction:
        yield _finding("the data set has no instruction for any episode", "write its tasks")


def _finding(why: str, hint: str) -> Finding:
    return Finding(str(INFO), why, hint=hint)


def _every(spec: PolicySpec, fps: float) -> int:
    return max(1, round(spec.video.frame_stride * fps / spec.actions.control_hz))


def _view_findings(
    recording: LeRobotFolder, spec: PolicySpec, columns: Columns
) -> Iterator[Finding]:
    views, cameras = [view.name for view in spec.cameras.views], recording.cameras
    for name in sorted(set(columns.views) - set(views)):
        yield _finding(
            f"the policy has no view {name!r}; it has {', '.join(views)}",
            did_you_mean(name, views, f"write --key-map {views[0]}={columns.views[name]}"),
        )
    there = f"its cameras are {', '.join(cameras)}" if cameras else "it has no camera"
    free = [name for name in cameras if name not in {columns.view(view) for view in views}]
    for view in views:
        key = columns.view(view)
        if key in cameras:
            continue
        nearest = _likely(view, free) or _likely(view, list(cameras))
        hint = f"--key-map {view}={nearest}" if nearest else "record it, or leave the view out"
        if nearest in free and len(free) > 1:
            free.remove(nearest)
        if key in recording.features:
            yield _finding(f"{key!r} holds no images, and view {view!r} needs them; {there}", hint)
        else:
            yield _finding(f"the data set has no {key!r} for {view}; {there}", hint)


def _likely(name: str, keys: list[str]) -> str:
    """The key most similar to a name; the first if none is similar."""
    short = {key.rsplit(".", 1)[-1]: key for key in keys}
    for last, key in short.items():
        if name in last or last in name:
            return key
    suggestion = did_you_mean(name, list(short))
    near = [key for last, key in short.items() if repr(last) in suggestion]
    return (near or keys or [""])[0]


def _vector_findings(
    recording: LeRobotFolder, spec: PolicySpec, columns: Columns
) -> Iterator[Finding]:
    taken = len(spec.actions.executed)
    wanted = {"action": (columns.action, taken, "the sizes of actions.groups")}
    if spec.state.size:
        wanted["state"] = (columns.state, spec.state.size, "state.size")
    numeric = {
        name: prod(feature.shape)
        for name, feature in recording.features.items()
        if name not in OWN and not feature.is_image and _is_number(feature.dtype)
    }
    for name, (key, size, where) in wanted.items():
        if numeric.get(key) == size:
            continue
        fitting = [other for other, count in numeric.items() if count == size and other != key]
        option = f"--key-map {name}={_likely(name, fitting)}" if fitting else ""
        if key in recording.features:
            feature = recording.features[key]
            change = f"change {where} in the spec to {numeric[key]}" if key in numeric else ""
            yield _finding(
                f"{key!r} is {feature.dtype} {list(feature.shape)}, the spec has {size} values",
                ", or ".join(filter(None, [change, option]))
                or f"name another: --key-map {name}=KEY",
            )
            continue
        there = ", ".join(f"{other} ({count})" for other, count in numeric.items()) or "none"
        drop = ", or --set state.size=0" if name == "state" else ""
        near = did_you_mean(key, list(numeric), f"name one of them: --key-map {name}=KEY")
        yield _finding(
            f"the data set has no {key!r} for {name}; its values are {there}",
            (option or near) + drop,
        )


def _is_number(dtype: str) -> bool:
    try:
        return np.dtype(dtype).kind in "iufb"
    except TypeError:
        return False
