"""Parse the options of `act` and `imagine` to a policy and an observation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config.check import check, warnings_of
from ..config.parts import KINDS, Weighted
from ..config.runs import is_folder
from ..config.spec import PolicySpec, parse, read
from ..errors import SpecError, WamkitError
from ..policy.build import build, resolve

if TYPE_CHECKING:
    from ..policy.observation import Observation
    from ..policy.policy import Policy


def chosen(source: Path, overrides: Sequence[str], *, tiny: bool) -> tuple[PolicySpec, list[str]]:
    """The spec at `source`, checked, and notes on what `tiny` changed."""
    if is_folder(source):
        if tiny:
            raise WamkitError(
                f"{source} is a saved policy; --tiny is for specs",
                "act from the spec it was built from",
            )
        return resolve(source, overrides, fetch=True), []
    return at_toy_size(source, overrides) if tiny else (resolve(source, overrides, fetch=True), [])


def at_toy_size(source: Path, overrides: Sequence[str]) -> tuple[PolicySpec, list[str]]:
    """The spec at `source`, also of a saved policy, with every size made tiny, and notes on that.

    Checked as it will be built. Weights of a saved policy do not fit it and are left out.
    """
    whole = parse(read(source, overrides), str(source))
    spec, changes = whole.tiny()
    if spec.dump() == whole.dump():
        return whole, []
    if conflicts := check(spec):
        raise SpecError(conflicts, f"{source} at toy size")
    notes = [f"tiny {kind}: {reason}" for kind, reason in changes.items()]
    if is_folder(source):
        notes.append(f"the weights of {source} do not fit toy size and are left out")
    return spec, notes


def load_policy(
    source: Path,
    spec: PolicySpec,
    device: str,
    overrides: Sequence[str],
    quantize: str = "none",
    *,
    tiny: bool = False,
    quiet: bool = False,
) -> tuple[Policy, list[str]]:
    """The policy that `chosen` chose, quantized, and notes on which of its weights are random.

    What `warnings_of` finds is printed on stderr before anything is loaded, unless `quiet`.
    """
    from ..policy.devices import expect_device
    from ._output import note, spinner

    for caution in () if quiet else warnings_of(spec):
        note(f"warning: {caution}")
    place = expect_device(device)
    if quantize != "none":
        from ..acceleration.quantize import check_kind

        check_kind(quantize, place, spec.dtype)  # before any weight is loaded
    with spinner(f"loading {source}"):
        if is_folder(source) and not (tiny and spec.dump() != resolve(source, overrides).dump()):
            from ..policy.policy import Policy

            policy, random = Policy.load(source, overrides, device=device), []
        else:
            policy = build(spec, device=device)
            random = [kind for kind in KINDS if _random(policy, kind)]
    policy.quantize(quantize)
    return policy, [f"random weights: {', '.join(random)}"] if random else []


def _random(policy: Policy, kind: str) -> bool:
    part: Any = getattr(policy.spec, kind)
    if not isinstance(part, Weighted) or part.weights is not None:
        return False
    return any(True for _ in getattr(policy, kind).parameters())


def build_observation(
    spec: PolicySpec, images: Sequence[str], state: str | None, prompt: str, *, tiny: bool
) -> tuple[Observation, list[str]]:
    """Build the observation, and notes on filled-in values.

    Everything is tried against the spec here, before any weight is loaded. Raises WamkitError.
    """
    from ..policy.actions import StateSpace
    from ..policy.cameras import CameraLayout
    from ..policy.observation import Observation

    files, notes = _cameras(spec, images)
    repeated = _moments(spec, files, tiny=tiny)
    state_values = None if state is None else _numbers(state)
    size = spec.state.size
    if state_values is None and size:
        if not tiny:
            raise WamkitError(
                f"no state; this policy expects {size} values",
                f"pass them: --state {','.join(['0'] * size)}",
            )
        state_values = [0.0] * size
        notes.append(f"no --state: {size} zeros")
    if repeated:
        notes.append(f"the same image {spec.video.num_observed} times: {', '.join(repeated)}")
    taken = {name: _images(name, paths) for name, paths in files.items()}
    seen = Observation(taken, prompt, state_values)
    CameraLayout(spec.cameras).expect_views(seen.images)
    if seen.state is not None:
        StateSpace(spec.state).encode(seen.state)
    return seen, notes


def _cameras(spec: PolicySpec, images: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """camera -> files, oldest first; an image without a camera's name goes where it can."""
    names = [view.name for view in spec.cameras.views]
    files: dict[str, list[str]] = {}
    unnamed = []
    for text in images:
        name, equals, file = text.partition("=")
        if equals and (name in names or not Path(text).is_file()):
            files.setdefault(name, []).append(file)
        else:
            unnamed.append(text)
    if not unnamed:
        return files, []
    if not files and len(names) == 1:
        return {names[0]: unnamed}, []
    if not files and len(unnamed) == 1:
        notes = [f"the same image for every camera: {', '.join(names)}"]
        return {name: list(unnamed) for name in names}, notes
    raise WamkitError(
        f"which camera sees {unnamed[0]}? this policy has {', '.join(names)}",
        f"name it: --image {next((n for n in names if n not in files), names[0])}={unnamed[0]}",
    )


def _moments(spec: PolicySpec, files: dict[str, list[str]], *, tiny: bool) -> list[str]:
    """Refuse a wrong number of images; at toy size one is repeated. Returns where it was."""
    count, repeated = spec.video.num_observed, []
    for name, paths in files.items():
        if len(paths) == count:
            continue
        if not tiny or len(paths) != 1:
            raise WamkitError(
                f"camera {name!r} is given {len(paths)} images; this policy observes {count}",
                f"give --image {name}=FILE once for each moment, oldest first",
            )
        paths *= count
        repeated.append(name)
    return repeated


def _images(name: str, paths: Sequence[str]) -> Any:
    """The images of one camera as a tensor [T, 3, height, width] uint8; [T, 1, ...] if deep."""
    import numpy as np
    import torch

    from ..files.pixels import read_pixels

    arrays = [read_pixels(path) for path in paths]
    if len({array.shape for array in arrays}) > 1:
        sizes = ", ".join(f"{a.shape[0]}x{a.shape[1]}" for a in arrays)
        if len({array.shape[2] for array in arrays}) > 1:
            sizes = ", ".join("deep" if a.shape[2] == 1 else "color" for a in arrays)
        raise WamkitError(
            f"the images of camera {name!r} differ in size: {sizes}",
            "give images of one camera, all of the same size",
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def _numbers(text: str) -> list[float]:
    """`1,2,3` or `1 2 3` as floats."""
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError as problem:
        raise WamkitError(
            f"--state {text!r} is no list of numbers: {problem}", "for example --state 0.1,0,-0.2"
        ) from None
