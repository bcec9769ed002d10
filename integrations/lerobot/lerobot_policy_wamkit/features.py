"""What a policy of wamkit needs of LeRobot's features, and at which frames; without LeRobot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError, did_you_mean

ACTION, STATE, TASK = "action", "observation.state", "task"
IMAGE, IMAGES = "observation.image", "observation.images"
VISUAL = "VISUAL"
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]
"""Feature -> its kind ("VISUAL", "STATE", "ACTION", ...) and its shape."""


@dataclass(frozen=True)
class Offsets:
    """Frames of a training sample, counted from the present one."""

    observation: tuple[int, ...]
    """Of every image and state."""
    action: tuple[int, ...]


def offsets(spec: PolicySpec) -> Offsets:
    """Which frames a sample of this policy holds.

    LeRobot has one list for all observations, so every frame whose state is needed has its images
    read as well.
    """
    steps = spec.steps
    needed = {0, *spec.video.moments(spec.num_images)}
    if spec.state.size:
        needed |= {steps} if "next_state" in spec.predicts else set()
        if spec.paradigm.states_per_sample > 1:
            needed |= set(range(0, steps, spec.actions.chunk_size))
    if takes_states(spec):
        needed |= set(range(steps))
    return Offsets(tuple(sorted(needed)), tuple(range(steps)))


def takes_states(spec: PolicySpec) -> bool:
    """Whether values of an action are those of the state at its frame."""
    return len(spec.actions.executed) < spec.actions.size


def view_keys(spec: PolicySpec, given: Mapping[str, str], features: Shapes) -> dict[str, str]:
    """View of the policy -> the feature that its images come from.

    Args:
        spec: Of the policy.
        given: View -> feature, where they are not called alike.
        features: Observations that there are; if empty, names are not compared with them.

    A view that is not given is at `observation.images.VIEW`. A single view is that of the only
    camera there is, whatever its name.
    """
    cameras = [name for name, (kind, _) in features.items() if kind == VISUAL]
    views = [view.name for view in spec.cameras.views]
    keys = {view: given.get(view, f"{IMAGES}.{view}") for view in views}
    if len(views) == len(cameras) == 1 and not given:
        keys[views[0]] = cameras[0]
    return keys


def mismatches(
    spec: PolicySpec,
    given: Mapping[str, str],
    inputs: Shapes,
    outputs: Shapes,
    fps: float | None = None,
) -> Iterator[str]:
    """Yield everything in which features are not those of the policy, one line each.

    Args:
        spec: Of the policy.
        given: As of `view_keys`.
        inputs: Observations.
        outputs: Actions; if empty, they are not known.
        fps: Frames a second of a data set that the policy is to learn from.
    """
    views = [view.name for view in spec.cameras.views]
    for name in sorted(set(given) - set(views)):
        yield f"cameras names view {name!r}; the policy has {', '.join(views)}"
    cameras = [name for name, (kind, _) in inputs.items() if kind == VISUAL]
    for view, key in view_keys(spec, given, inputs).items():
        if key not in cameras:
            there = ", ".join(cameras) or "none"
            near = did_you_mean(key, cameras, f'--policy.cameras=\'{{"{view}": "FEATURE"}}\'')
            yield f"view {view!r} is at {key!r}; cameras are {there} ({near})"
    for one in spec.cameras.views:
        if one.value_range is not None:
            yield f"view {one.name!r} is deep; LeRobot hands policies images of 8 bits"
    if spec.state.size:
        _, shape = inputs.get(STATE, ("", ()))
        if STATE not in inputs:
            yield f"there is no {STATE!r}; the policy takes a state of {spec.state.size} values"
        elif prod(shape) != spec.state.size:
            yield f"{STATE!r} has {prod(shape)} values; the policy takes {spec.state.size}"
    if outputs:
        wanted, (_, shape) = len(spec.actions.executed), outputs.get(ACTION, ("", (0,)))
        if prod(shape) != wanted:
            yield f"{ACTION!r} has {prod(shape)} values; those of the policy have {wanted}"
    rate = spec.actions.control_hz
    if fps is not None and abs(fps - rate) > 1e-6:
        yield (
            f"the data set has {fps:g} frames a second, the policy {rate:g} actions "
            f"(--policy.overrides='[\"actions.control_hz={fps:g}\"]')"
        )


def expect(
    spec: PolicySpec,
    given: Mapping[str, str],
    inputs: Shapes,
    outputs: Shapes,
    fps: float | None = None,
) -> None:
    """Raise WamkitError with every mismatch (`mismatches`)."""
    found = list(mismatches(spec, given, inputs, outputs, fps))
    if found:
        lines = "\n".join(f"- {line}" for line in found)
        raise WamkitError(
            f"features do not fit the policy; reasons: {len(found)}\n{lines}",
            "--policy.cameras says which feature is which view; sizes are those of the spec "
            "(`wamkit show POLICY`)",
        )


def features_of(spec: PolicySpec, given: Mapping[str, str]) -> tuple[Shapes, Shapes]:
    """Observations and actions as the policy has them: what a robot should offer."""
    keys = view_keys(spec, given, {})
    inputs: dict[str, tuple[str, tuple[int, ...]]] = {
        keys[view.name]: (VISUAL, (3, *view.size)) for view in spec.cameras.views
    }
    if spec.state.size:
        inputs[STATE] = ("STATE", (spec.state.size,))
    return inputs, {ACTION: ("ACTION", (len(spec.actions.executed),))}
