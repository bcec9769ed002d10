"""The fields of a request: an instruction, a seed, images as arrays or files, vectors.

Each function validates one value of an untrusted client, and raises WamkitError with what was
found, what is expected, and what to send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config.seeds import expect_seed
from ..errors import WamkitError
from ..files.images import expect_size
from ..files.pixels import decode_pixels, to_deep_image
from ..policy.moments import Moment
from .quoting import control_character, quote

LONGEST_PROMPT = 4096
"""Characters of an instruction; text encoders read a few hundred tokens."""
MOST_ROWS = 2**16
"""Rows of `executed`: hours of actions, where a chunk has seconds."""
ENCODINGS = ("JPEG", "PNG")
"""Formats in which a client may send an image, by Pillow's names."""
PROMPT, SEED, RESET, IMAGINE = "prompt", "seed", "reset", "imagine"
STEP, EPISODE = "step", "episode"
LONGEST_NAME = 64
"""Characters of the name of an episode."""


def parse_prompt(found: Any) -> str:
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


def parse_switch(request: Mapping[str, Any], key: str) -> bool:
    """A value that is true or false; false where it is left out."""
    found = request.get(key, False)
    if found is None or (isinstance(found, bool | int | np.bool_) and found in (0, 1)):
        return bool(found)
    raise WamkitError(f"'{key}' is {quote(found)}", "send true, false, or leave it out")


def _decoded(key: str, found: Any, count: int) -> Any:
    """Arrays of images that came as JPEG or PNG, one or a list of them; others as they are."""
    if isinstance(found, bytes):
        return decode_pixels(found, repr(key), ENCODINGS)
    if not isinstance(found, list) or not found or not all(isinstance(x, bytes) for x in found):
        return found
    if len(found) != count:  # before they are decoded
        raise WamkitError(
            f"{key!r} is a list of {len(found)} encoded images; expected {count}",
            "send as many images as 'num_images' of the last reply, oldest first",
        )
    images: list[NDArray[Any]] = []
    for place, data in enumerate(found):
        images.append(decode_pixels(data, f"image {place} of {key!r}", ENCODINGS))
        if images[-1].shape != images[0].shape:
            raise WamkitError(
                f"images 0 and {place} of {key!r} are {list(images[0].shape)} and "
                f"{list(images[-1].shape)}",
                "send images of one camera in one size",
            )
    return np.stack(images)


def to_clip(key: str, found: Any, count: int) -> Tensor:
    """Images of one camera as a tensor [1, T, 3, height, width] uint8, oldest first."""
    shapes = "[height, width, 3]" if count == 1 else f"[{count}, height, width, 3]"
    found = _decoded(key, found, count)
    if not isinstance(found, np.ndarray):
        raise WamkitError(
            f"{key!r} is a {type(found).__name__}; expected an array uint8 {shapes}",
            "send the image itself as a numpy array, or as bytes of a JPEG or PNG file",
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


def to_deep_clip(key: str, found: Any, count: int) -> Tensor:
    """Deep images of one camera as a tensor [1, T, 1, height, width] float32, oldest first."""
    shapes = "[height, width]" if count == 1 else f"[{count}, height, width]"
    expected = f"expected one channel {shapes} of any number type, in the recording's own units"
    found = _decoded(key, found, count)
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


def to_vector(key: str, found: Any, shape: tuple[int, ...]) -> Tensor:
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


def parse_seed(request: Mapping[str, Any]) -> int | None:
    """The seed of a request; None if there is none."""
    found = request.get(SEED)
    return None if found is None else expect_seed(found, f"'{SEED}'")


def parse_moment(request: Mapping[str, Any]) -> Moment | None:
    """When the observation of a request was made; None if it does not say so."""
    step, episode = request.get(STEP), request.get(EPISODE, 0)
    if step is None:
        if EPISODE in request:
            raise WamkitError(
                f"the request has '{EPISODE}' and no '{STEP}'",
                f"send both: '{STEP}' counts the actions that were executed since it began",
            )
        return None
    if not _is_count(step):
        raise WamkitError(
            f"'{STEP}' is {quote(step)}; expected a count",
            "send how many actions of the episode were executed before its newest image",
        )
    if not _is_count(episode) and not (isinstance(episode, str) and len(episode) <= LONGEST_NAME):
        raise WamkitError(
            f"'{EPISODE}' is {quote(episode)}; expected a count, or a name of at most "
            f"{LONGEST_NAME} characters",
            "number the episodes, or give each a name of its own",
        )
    return Moment(int(step), episode if isinstance(episode, str) else int(episode))


def _is_count(found: Any) -> bool:
    whole = isinstance(found, int | np.integer) and not isinstance(found, bool)
    return whole and bool(found >= 0)
