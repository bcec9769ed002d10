"""Inputs and outputs of a policy: observations, action chunks, training batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..checkpoints.finite import fault
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files.paths import expect_text
from ..files.pixels import is_deep, pixels, read_pixels, to_deep_image

LARGE = 2**13
"""State values from here on stay float64, because float32 is coarser than 1/1000."""


@dataclass(frozen=True)
class Observation:
    """Camera images, robot state and prompt. Unbatched values are read as a batch of one.

    `images`: camera name -> a path, a PIL image, an array or a tensor. Arrays are uint8
    [height, width, 3], tensors uint8 in [0, 255] or float in [-1, 1], shaped [3, height, width],
    [T, 3, height, width] (oldest first) or [B, T, 3, height, width]. One channel in place of three
    is a deep image in units of its own, such as depth in millimeters: of any number type, float32
    in `images`, and only for views with `value_range`.
    `state`: P values in physical units, or [B, P]. `prompt`: one instruction, or B of them.

    Raises WamkitError if an image cannot be read, a number is not finite, or batch sizes differ.
    """

    images: Mapping[str, Any]
    prompt: str | Sequence[str]
    state: Any = None

    def __post_init__(self) -> None:
        images = {name: _image(name, value) for name, value in self.images.items()}
        if not images:
            raise WamkitError("the observation has no image", "give at least one camera an image")
        many = isinstance(self.prompt, Iterable) and not isinstance(self.prompt, str)
        prompts = tuple(self.prompt) if many else (self.prompt,)
        for prompt in prompts:
            if not isinstance(prompt, str) or not prompt.strip():
                raise WamkitError(
                    f"the instruction is empty: {prompt!r}",
                    'describe the task, such as "pick up the red cup"',
                )
            expect_text(prompt, "instruction")
        state = None if self.state is None else _state(self.state)
        sizes = {f"image {k!r}": v.shape[0] for k, v in images.items()} | {"prompt": len(prompts)}
        if state is not None:
            sizes["state"] = state.shape[0]
        if len(set(sizes.values())) > 1:
            found = ", ".join(f"{k} {v}" for k, v in sizes.items())
            raise WamkitError(
                f"batch sizes differ: {found}", "give each the same number of samples"
            )
        object.__setattr__(self, "images", images)
        object.__setattr__(self, "prompt", prompts)
        object.__setattr__(self, "state", state)

    @property
    def batch(self) -> int:
        """Number of samples (B)."""
        return len(self.prompt)


@dataclass(frozen=True)
class ActionChunk:
    """Actions for the next moments, in physical units."""

    values: Tensor  # [B, N, A] float32
    control_hz: float
    names: tuple[str, ...]  # A names, such as "arm.0"
    normalized: bool = False
    """True if the policy has no statistics yet, so that values are in normalized units."""
    value: Tensor | None = None  # [B] in [-1, 1], how well the policy expects it to go
    notes: Mapping[str, Tensor] = field(default_factory=dict)  # [B] each, notes of the paradigm

    def __post_init__(self) -> None:
        assert self.values.shape[-1] == len(self.names)


@dataclass(frozen=True)
class Batch:
    """Training samples: a clip whose first images are observed, and the actions taken meanwhile.

    `observation.images` hold all images of the clip, [B, frames, 3, height, width], and its
    state is the one at the last observed image.
    """

    observation: Observation
    actions: Tensor  # [B, N, A] physical units
    step_valid: Tensor | None = None  # [B, N] bool, False where an action is padding
    frame_valid: Tensor | None = None  # [B, frames] bool, False where an image is padding
    dim_valid: Tensor | None = None  # [A] or [B, A] bool, False where this robot has no such number
    next_state: Tensor | None = None  # [B, P] physical units, the state when the actions are done
    value: Tensor | None = None  # [B] in [-1, 1], how well it goes from there; NaN if not known
    latents: Tensor | None = None  # [B, C, T, h, w] of the images, encoded before
    states: Tensor | None = None  # [B, n, P] physical units, where each of n chunks has a state

    def __post_init__(self) -> None:
        """Raises WamkitError if values on the host are not finite; devices are not synced."""
        for name in ("actions", "next_state", "latents", "states"):
            values = getattr(self, name)
            if values is not None and values.device.type == "cpu" and (bad := fault(values)):
                raise WamkitError(
                    f"the {name} of a batch are not finite: {bad}",
                    "run `wamkit data check` on the data set they come from",
                )


@dataclass(frozen=True)
class Imagined:
    """A future that a policy imagined."""

    canvas: Tensor  # [B, 3, frames, height, width] in [-1, 1], the observed images included
    observed: int  # how many of the images were observed
    views: Mapping[str, Tensor] = field(default_factory=dict)  # camera -> [B, 3, frames, h, w]
    value: Tensor | None = None  # [B] in [-1, 1] of given actions, if the paradigm predicts it
    next_state: Tensor | None = None  # [B, P] physical units, after given actions, likewise


@dataclass(frozen=True)
class Losses:
    """Losses of one batch; `total.backward()` trains."""

    total: Tensor  # scalar
    parts: Mapping[str, Tensor]  # modality -> scalar, before its loss weight


def _image(name: str, value: Any) -> Tensor:
    """Any image as [B, T, 3, height, width]; a deep one as [B, T, 1, height, width] float32."""
    where = f"image {name!r}"
    if isinstance(value, str | Path):
        value = read_pixels(value)
    if isinstance(value, Image.Image):
        value = pixels(value, where)
    if isinstance(value, np.ndarray):
        one = value.ndim == 2 or (value.ndim == 3 and value.shape[-1] == 1)
        if one and value.dtype.kind in "uif":
            value = to_deep_image(value, where)
        elif value.ndim != 3 or value.shape[-1] != 3 or value.dtype != np.uint8:
            raise WamkitError(
                f"{where} is an array {value.dtype} {list(value.shape)}; "
                "expected uint8 [height, width, 3], or one deep channel [height, width]",
                "convert it, or pass a tensor [3, height, width]",
            )
        value = torch.from_numpy(np.array(value)).permute(2, 0, 1)
    if not isinstance(value, Tensor):
        raise WamkitError(
            f"image {name!r} is a {type(value).__name__}",
            "pass a path, a PIL image, a uint8 array or a tensor",
        )
    if value.ndim in (3, 4, 5) and value.shape[-3] == 1 and value.dtype != torch.bool:
        values = to_deep_image(value.cpu().unsqueeze(-1).numpy(), where)[..., 0]
        value = torch.from_numpy(values).to(value.device)
        return value.reshape(*(1,) * (5 - value.ndim), *value.shape)
    if value.ndim not in (3, 4, 5) or value.shape[-3] != 3:
        raise WamkitError(
            f"image {name!r} has shape {list(value.shape)}; expected [3, height, width], "
            "[T, 3, height, width] or [B, T, 3, height, width], or 1 deep channel in place of 3",
            "move the color axis before height and width",
        )
    if value.dtype != torch.uint8:
        if not value.is_floating_point():
            raise WamkitError(
                f"image {name!r} has 3 channels of {value.dtype}",
                "pass uint8 in [0, 255] or float in [-1, 1]; a deep image has 1 channel",
            )
        if not bool(torch.isfinite(value).all()):
            raise WamkitError(
                f"image {name!r} holds {value.dtype} values that are not all finite",
                "pass uint8 in [0, 255] or float in [-1, 1]",
            )
        if float(value.abs().max()) > 1.001:
            raise WamkitError(
                f"image {name!r} is float with values up to {float(value.abs().max()):g}; "
                "expected [-1, 1]",
                "divide by 127.5 and subtract 1, or pass uint8",
            )
    return value.reshape(*(1,) * (5 - value.ndim), *value.shape)


def read_image(path: str | Path) -> Image.Image:
    """A color image from a file, upright.

    Raises WamkitError as `files.pixels.read_pixels`, and for a deep image, which only a view of a
    spec can scale.
    """
    found = read_pixels(path)
    if is_deep(found):
        raise WamkitError(
            f"{path} has one channel of more than 8 bits, with values from {found.min():g} to "
            f"{found.max():g}; expected 8-bit color",
            "give the path itself to Observation, for a view with value_range, or convert it",
        )
    return Image.fromarray(found)


def _state(value: Any) -> Tensor:
    try:
        known = isinstance(value, Tensor)
        given = torch.as_tensor(value, dtype=None if known else torch.float64)
        state = given.float()
    except (TypeError, ValueError, RuntimeError) as error:
        raise WamkitError(f"the state is no list of values: {error}", "pass P values") from None
    if state.ndim not in (1, 2):
        raise WamkitError(f"the state has shape {list(state.shape)}", "pass [P] or [B, P]")
    if not bool(torch.isfinite(state).all()):
        place = (~torch.isfinite(state)).nonzero()[0].tolist()
        raise WamkitError(
            f"the state holds values that are not finite: {float(state[tuple(place)])} at "
            f"number {place[-1]}",
            "check the sensors",
        )
    if given.dtype in (torch.float64, torch.int64, torch.int32):
        blurred = state.to(given) != given
        state = given.double() if bool(blurred[given.abs() >= LARGE].any()) else state
    return state.reshape(-1, state.shape[-1])


def random_observation(
    spec: PolicySpec, *, batch: int = 2, frames: int | None = None, seed: int = 0
) -> Observation:
    """Random images and state for the cameras of a spec; by default as many as it observes."""
    rng = torch.Generator().manual_seed(seed)
    frames = spec.video.num_observed if frames is None else frames
    images = {}
    for view in spec.cameras.views:
        if view.value_range is None:
            shape = (batch, frames, 3, 24, 32)
            images[view.name] = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
        else:
            low, high = view.value_range
            depth = torch.rand(batch, frames, 1, 24, 32, generator=rng)
            images[view.name] = low + (high - low) * depth
    state = torch.randn(batch, spec.state.size, generator=rng) if spec.state.size else None
    return Observation(images=images, prompt=[f"task {i}" for i in range(batch)], state=state)


def random_batch(spec: PolicySpec, *, size: int = 2, seed: int = 0) -> Batch:
    """Random training samples for a spec."""
    rng = torch.Generator().manual_seed(seed)
    actions = torch.rand(size, spec.steps, spec.actions.size, generator=rng) * 2 - 1
    observation = random_observation(spec, batch=size, frames=spec.num_images, seed=seed)
    states, count = None, spec.paradigm.states_per_sample
    if count > 1 and observation.state is not None:
        later = torch.randn(size, count - 1, spec.state.size, generator=rng)
        states = torch.cat([observation.state[:, None], later], 1)
    return Batch(
        observation,
        actions,
        states=states,
        next_state=torch.randn(size, spec.state.size, generator=rng) if spec.state.size else None,
        value=torch.rand(size, generator=rng) * 2 - 1,
    )
