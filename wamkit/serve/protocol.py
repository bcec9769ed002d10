"""Requests and replies of the server: openpi's keys, and the observations that they encode.

A request is a map: `observation/VIEW` images, `observation/state` values, `prompt` an instruction.
It may hold `seed`, `reset` (a new episode begins with this request) and, where the paradigm
remembers, `executed` (the actions that the robot executed). No other key is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..config.seeds import expect_seed
from ..config.spec import PolicySpec
from ..errors import WamkitError, did_you_mean
from ..files.images import expect_size
from ..files.pixels import to_deep_image
from ..policy.observation import ActionChunk, Observation
from ..policy.policy import Policy
from ..policy.session import Session
from .quoting import control_character, list_values, quote

NUMBER = "request"  # a client that counts its requests can send one again
LONGEST_PROMPT = 4096
"""Characters of an instruction; text encoders read a few hundred tokens."""
MOST_ROWS = 2**16
"""Rows of `executed`: hours of actions, where a chunk has seconds."""
STATE, PROMPT, SEED, RESET, EXECUTED = "observation/state", "prompt", "seed", "reset", "executed"


def keys_of(spec: PolicySpec, renamed: Mapping[str, str]) -> dict[str, str]:
    """view -> the key of its image in a request, `observation/VIEW` unless renamed.

    Raises WamkitError for a view that the policy does not have.
    """
    views = [view.name for view in spec.cameras.views]
    if unknown := sorted(set(renamed) - set(views)):
        raise WamkitError(
            f"the policy has no view {unknown[0]!r}; it has {', '.join(views)}",
            did_you_mean(unknown[0], views, f"write {views[0]}=KEY"),
        )
    return {view: renamed.get(view, f"observation/{view}") for view in views}


class RequestHandler:
    """Parses requests to one policy and serializes its replies."""

    def __init__(self, policy: Policy, name: str, renamed: Mapping[str, str]) -> None:
        self.policy, self.name = policy, name
        self.images = keys_of(policy.spec, renamed)
        state = [STATE] if policy.spec.state.size else []
        self.wanted = (*dict.fromkeys(self.images.values()), *state, PROMPT)
        self.optional = (SEED, RESET, *([EXECUTED] if policy.paradigm.stateful else []))

    def metadata(self) -> dict[str, Any]:
        """The greeting: keys and shapes of requests and replies."""
        spec = self.policy.spec
        return {
            "policy": self.name,
            "cameras": {
                view.name: {"key": self.images[view.name], "size": list(view.size)}
                | ({} if view.value_range is None else {"value_range": list(view.value_range)})
                for view in spec.cameras.views
            },
            "num_images": spec.video.num_observed,
            "image_steps": list(spec.video.moments(spec.video.num_observed)),
            "image_stride": spec.video.frame_stride * spec.video.repeats,
            "state": {"key": STATE, "size": spec.state.size},
            "actions": [self.policy.actions.names[i] for i in self.policy.actions.executed],
            "chunk_size": spec.actions.chunk_size,
            "control_hz": spec.actions.control_hz,
            "normalized": self.policy.actions.statistics is None,
            "stateful": self.policy.paradigm.stateful,
            "wamkit": __version__,
        }

    def answer(self, session: Session, request: Any) -> dict[str, Any]:
        """Return the next actions for a session, and the time the policy took.

        Raises WamkitError for a request that the policy cannot take.
        """
        self._expect_keys(request)
        executed, seed = self._parse_executed(request), _parse_seed(request)
        if _parse_reset(request):
            session.reset()
        seen = self._parse_observation(request, session.num_images)
        begun = perf_counter()
        chunk = session.act(seen, executed, seed=seed)
        timing = {"infer_ms": 1000 * (perf_counter() - begun)}
        return {**_to_reply(chunk), "num_images": session.num_images, "policy_timing": timing}

    def _expect_keys(self, request: Any) -> None:
        if not isinstance(request, dict):
            raise WamkitError(
                f"a request that is a {type(request).__name__}, not a map",
                f"send a map of {', '.join(self.wanted)}",
            )
        missing = [key for key in self.wanted if key not in request]
        unknown = [key for key in request if key not in (*self.wanted, *self.optional)]
        if not missing and not unknown:
            return
        faults = [f"has no {key!r}" for key in missing]
        faults += [f"has {list_values(unknown)}"] if unknown else []
        hint = f"optional keys are {', '.join(self.optional)}"
        if missing and unknown:
            hint = f"if {quote(unknown[0])} is meant, call it {missing[0]!r}"
            for view, key in self.images.items():
                if key == missing[0] and isinstance(unknown[0], str):
                    hint += f", or serve with --camera-map {view}={quote(unknown[0])[1:-1]}"
        raise WamkitError(
            f"the request {' and '.join(faults)}; found {list_values(request)}; "
            f"expected {', '.join(map(repr, self.wanted))}",
            hint,
        )

    def _parse_observation(self, request: Mapping[str, Any], count: int) -> Observation:
        ranged = {view.name for view in self.policy.spec.cameras.views if view.value_range}
        images = {
            view: (_to_deep_clip if view in ranged else _to_clip)(key, request[key], count)
            for view, key in self.images.items()
        }
        size = self.policy.spec.state.size
        state = _to_vector(STATE, request[STATE], (size,)) if size else None
        return Observation(images, _parse_prompt(request[PROMPT]), state)

    def _parse_executed(self, request: Mapping[str, Any]) -> Tensor | None:
        if EXECUTED not in request:
            return None
        return _to_vector(EXECUTED, request[EXECUTED], (-1, self.policy.spec.actions.size))


def check_request_number(found: Any, before: int | None) -> int:
    """Validate the number of a request. Raises WamkitError if it is none, or decreases."""
    if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise WamkitError(
            f"'{NUMBER}' is {quote(found)}; expected a count", "count requests from 1"
        )
    if before is not None and found < before:
        raise WamkitError(
            f"request {found} came after request {before}", "count on in the same session"
        )
    return found


def _to_reply(chunk: ActionChunk) -> dict[str, Any]:
    """A chunk of one robot as plain data: `actions` [N, A] float32."""
    found: dict[str, Any] = {"actions": chunk.values[0].numpy()}
    if chunk.value is not None:
        found["value"] = float(chunk.value[0])
    if chunk.notes:
        found["notes"] = {name: float(note[0]) for name, note in chunk.notes.items()}
    return found


def _parse_prompt(found: Any) -> str:
    """One instruction. Raises WamkitError if it is none, too long, or no plain text."""
    if not isinstance(found, str):
        raise WamkitError(
            f"'{PROMPT}' is a {type(found).__name__}; expected text", "send one instruction"
        )
    if len(found) > LONGEST_PROMPT:
        raise WamkitError(
            f"'{PROMPT}' has {len(found)} characters; expected at most {LONGEST_PROMPT}",
            "send one instruction",
        )
    if (at := control_character(found)) is not None:
        raise WamkitError(
            f"'{PROMPT}' holds the control character {found[at]!r} at place {at}",
            "send plain text",
        )
    return found


def _parse_reset(request: Mapping[str, Any]) -> bool:
    """Whether a new episode begins with this request."""
    found = request.get(RESET, False)
    if found is None or (isinstance(found, bool | int | np.bool_) and found in (0, 1)):
        return bool(found)
    raise WamkitError(f"'{RESET}' is {quote(found)}", "send true, false, or leave it out")


def _to_clip(key: str, found: Any, count: int) -> Tensor:
    """Images of one camera as a tensor [1, T, 3, height, width] uint8, oldest first."""
    shapes = "[height, width, 3]" if count == 1 else f"[{count}, height, width, 3]"
    if not isinstance(found, np.ndarray):
        raise WamkitError(
            f"{key!r} is a {type(found).__name__}; expected an array uint8 {shapes}",
            "send the image itself as a numpy array",
        )
    fault = f"{key!r} is {found.dtype} {list(found.shape)}; expected uint8 {shapes}"
    if found.dtype != np.uint8 and (found.dtype.kind in "ui" or 3 not in found.shape):
        raise WamkitError(
            fault,
            "depth and other deep images are taken by views with value_range, and this policy "
            "was trained on 8-bit color: send that",
        )
    if found.dtype != np.uint8:
        raise WamkitError(
            fault,
            "floats are not taken, since [0, 1] and [-1, 1] look alike: send bytes, "
            "such as (255 * image).round().astype(np.uint8)",
        )
    if found.ndim not in (3, 4) or found.shape[-1] != 3 or 0 in found.shape:
        colors = found.ndim in (3, 4) and found.shape[-3] == 3
        raise WamkitError(
            fault,
            "move the colors last: np.moveaxis(image, -3, -1)"
            if colors
            else "send red, green and blue for every pixel",
        )
    expect_size(found.shape[-2], found.shape[-3], repr(key))
    clip = found if found.ndim == 4 else found[None]
    if len(clip) != count:
        raise WamkitError(
            fault,
            f"send {count} images, oldest first"
            + (", or begin a new episode with 'reset'" if count > 1 else ""),
        )
    return torch.from_numpy(np.array(clip)).movedim(-1, 1)[None]


def _to_deep_clip(key: str, found: Any, count: int) -> Tensor:
    """Deep images of one camera as a tensor [1, T, 1, height, width] float32, oldest first."""
    shapes = "[height, width]" if count == 1 else f"[{count}, height, width]"
    expected = f"expected one channel {shapes} of any number type, in the recording's own units"
    if not isinstance(found, np.ndarray):
        raise WamkitError(
            f"{key!r} is a {type(found).__name__}; {expected}",
            "send the image itself as a numpy array",
        )
    clip = found[..., 0] if found.ndim > 2 and found.shape[-1] == 1 else found
    clip = clip[None] if clip.ndim == 2 else clip
    if found.dtype.kind not in "uif" or clip.ndim != 3 or len(clip) != count or 0 in clip.shape:
        raise WamkitError(
            f"{key!r} is {found.dtype} {list(found.shape)}; {expected}",
            "send the raw depth of the camera, such as uint16 millimeters",
        )
    expect_size(clip.shape[2], clip.shape[1], repr(key))
    return torch.from_numpy(to_deep_image(clip[..., None], repr(key))).movedim(-1, 1)[None]


def _to_vector(key: str, found: Any, shape: tuple[int, ...]) -> Tensor:
    """Convert values to a tensor [1, *shape] float32; an axis of -1 takes any length."""
    expected_shape = ", ".join("N" if n < 0 else str(n) for n in shape)
    try:
        given = found if isinstance(found, np.ndarray) else np.array(found)
        if given.dtype.kind in "USMmc":
            raise TypeError("numpy would convert text, times and complex numbers silently")
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise _vector_error(key, found, expected_shape) from None
    fits = given.ndim == len(shape) and all(
        n == m or (n == -1 and m <= MOST_ROWS) for n, m in zip(shape, given.shape, strict=True)
    )
    if given.dtype.kind == "O" or not fits:  # before anything is made of it: it may be large
        if given.dtype.kind == "O":
            raise _vector_error(key, found, expected_shape)
        raise WamkitError(
            f"{key!r} has shape {list(given.shape)}; expected [{expected_shape}]",
            "send the state the policy was trained with, in physical units",
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold is refused as infinite
        return torch.from_numpy(given.astype(np.float32))[None]


def _vector_error(key: str, found: Any, expected_shape: str) -> WamkitError:
    return WamkitError(
        f"{key!r} is a {type(found).__name__}; expected numbers [{expected_shape}]",
        "send an array or a list of numbers",
    )


def _parse_seed(request: Mapping[str, Any]) -> int | None:
    """The seed of a request; None if there is none."""
    found = request.get(SEED)
    return None if found is None else expect_seed(found, f"'{SEED}'")
