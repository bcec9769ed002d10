"""The files of stored latents, which are not trusted: a schema of the index, a form of each file.

latents.json                          their source and settings, and the number of files
latents-00000-of-00007.safetensors    `starts` [n, 2], episode and frame; `latents` [n, C, t, h, w]
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from safetensors import SafetensorError, safe_open

from ..config.records import parse_record
from ..config.robot import Section
from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files import strict_json
from ..files.placeholders import refuse_placeholder
from .findings import MOST
from .schema import MOST_EPISODES

INDEX = "latents.json"
AGAIN = "run `wamkit precompute latents` again"
MOST_CLIPS = 10**7
MOST_SHARDS = 10**5
CODES = {"float32": "F32", "bfloat16": "BF16"}
"""The dtype of latents.json -> what safetensors calls it."""

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0, lt=MOST)]


class Settings(Section):
    """Settings that determine the latents, besides the weights of the VAE."""

    vae: dict[str, Any]
    cameras: dict[str, Any]
    video: dict[str, Any]
    views: dict[str, str]
    data: Hash
    """The fingerprint of the data set."""


class Index(Section):
    """latents.json."""

    settings: Settings
    weights: Hash
    """A hash of the VAE's weights."""
    dtype: Literal["float32", "bfloat16"]
    moments: tuple[tuple[Count, Count], tuple[Count, Count]]
    """Episode and frame of the first and of the last clip."""
    stride: int = Field(gt=0, lt=MOST)
    episodes: tuple[Count, ...] = Field(min_length=1, max_length=MOST_EPISODES)
    shards: int = Field(gt=0, le=MOST_SHARDS)
    clips: int = Field(gt=0, le=MOST_CLIPS)

    @model_validator(mode="after")
    def _is_complete(self) -> Index:
        if self.shards > self.clips:
            raise ValueError(f"{self.shards} files of {self.clips} clips: some would be empty")
        if any(one >= other for one, other in pairwise(self.episodes)):
            raise ValueError("the episodes are not in ascending order, each once")
        return self


def read_index(folder: Path) -> Index:
    """Read latents.json. Raises WamkitError with every fault."""
    return parse_record(folder / INDEX, Index, strict_json.loads, f"remove the folder, and {AGAIN}")


def name_of(shard: int, shards: int) -> str:
    """The name of a file."""
    return f"latents-{shard:05d}-of-{shards:05d}.safetensors"


def shape_of(spec: PolicySpec) -> tuple[int, int, int, int]:
    """Channels, frames, height and width of the latents of a clip."""
    frames = spec.video.latents(spec.num_images, spec.time_stride)
    return spec.vae.channels, frames * spec.cameras.apart, *spec.latent_size


def starts_of(lengths: Sequence[tuple[int, int]], stride: int) -> NDArray[np.int64]:
    """Episode and frame of every clip [n, 2], of episodes with these indexes and lengths."""
    pieces = [np.arange(0, length, stride, dtype=np.int64) for _, length in lengths]
    owners = np.repeat([index for index, _ in lengths], [len(piece) for piece in pieces])
    return np.stack([owners.astype(np.int64), np.concatenate(pieces)], 1)


def open_latents(file: Path) -> Any:
    """A safetensors file, mapped into memory. Raises WamkitError if it is damaged."""
    refuse_placeholder(file)
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WamkitError(f"{file} is damaged: {error}", f"remove it and {AGAIN}") from None


def expect_form(source: Any, file: Path, dtype: str, shape: Sequence[int] | None) -> int:
    """How many clips an open file holds.

    Raises WamkitError unless it holds `starts` [n, 2] and `latents` [n, C, t, h, w] of this dtype
    and, where that is known, with this shape [C, t, h, w].
    """
    if (names := sorted(source.keys())) != ["latents", "starts"]:
        found = ", ".join(names[:8]) or "nothing"
        raise WamkitError(
            f"{file} holds {found}, expected latents and starts", f"remove it and {AGAIN}"
        )
    starts, latents = source.get_slice("starts"), source.get_slice("latents")
    count, *rest = starts.get_shape() or [0]
    form, kind = latents.get_shape(), latents.get_dtype()
    right = rest == [2] and starts.get_dtype() == "I64" and form[:1] == [count] and count > 0
    wanted = [count, *(shape if shape is not None else form[1:])]
    if not right or kind != CODES[dtype] or form != wanted or len(form) != 5:
        sizes = ", ".join(map(str, shape)) if shape is not None else "C, t, h, w"
        raise WamkitError(
            f"{file} holds starts {starts.get_dtype()} {starts.get_shape()} and latents {kind} "
            f"{form}; expected I64 [n, 2] and {CODES[dtype]} [n, {sizes}]",
            f"remove it and {AGAIN}",
        )
    return int(count)


def expect_starts(source: Any, file: Path, wanted: NDArray[np.int64]) -> None:
    """Raise WamkitError unless an open file holds the clips of these moments [n, 2], in order."""
    found = source.get_tensor("starts").numpy()
    if not np.array_equal(found, wanted):
        raise WamkitError(
            f"{file} holds the latents of other moments than are to be stored there",
            f"choose another folder, or remove it and {AGAIN}",
        )
