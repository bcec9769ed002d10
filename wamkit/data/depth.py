"""Compare the depth of images with the metadata and the spec; for `wamkit data check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..files.pixels import is_deep
from ..policy.cameras import expect_channels
from .findings import Finding
from .lerobot_format import Columns, LeRobotFolder

Place = tuple[str, int, int]  # file, episode, frame
ONE = "one channel of more than 8 bits"
INSIDE = 0.1
"""Share of pixels within a view's `value_range` below which the range is taken for another unit."""


class ProbedImage(NamedTuple):
    """Some pixels of an image that was checked."""

    place: Place
    shape: tuple[int, ...]
    values: NDArray[Any]  # some pixels of a deep image, its smallest and its largest included


class ProbedImages:
    """Images that were checked, by camera."""

    def __init__(self) -> None:
        self._of: dict[str, list[ProbedImage]] = {}

    def add(self, key: str, place: Place, image: NDArray[Any]) -> None:
        """Take note of an image [height, width, 3], or [height, width, 1] if it is deep."""
        values = np.empty(0, np.float32)
        if is_deep(image):
            flat = image.ravel()
            some = flat[:: max(1, len(flat) // 64)]
            values = np.append(some, [flat.min(), flat.max()])
        self._of.setdefault(key, []).append(ProbedImage(place, image.shape, values))

    def findings(
        self, recording: LeRobotFolder, spec: PolicySpec | None, columns: Columns
    ) -> Iterator[Finding]:
        """Yield a finding for every camera whose depth is inconsistent."""
        for key, looks in self._of.items():
            deep = [look for look in looks if look.shape[-1] == 1]
            count = f"{len(deep)} of {len(looks)} images that were checked"
            if deep and len(deep) < len(looks):
                why = f"{key!r}: {count} have {ONE}, the others are 8-bit color"
                yield _at(deep[0], why, "record the camera in one way, or leave episodes out")
            shape = recording.features[key].shape
            if deep and 3 in (shape[0], shape[-1]) and len(shape) == 3:
                why = f"{key!r}: {count} have {ONE}, the metadata says {list(shape)}"
                yield _at(deep[0], why, "correct the shape in meta/info.json: 1 channel")
            views = spec.cameras.views if spec is not None else ()
            for view in views:
                if columns.view(view.name) == key and spec is not None:
                    yield from _of_view(spec, view.name, key, looks, deep)


def _of_view(
    spec: PolicySpec, view: str, key: str, looks: list[ProbedImage], deep: list[ProbedImage]
) -> Iterator[Finding]:
    """Compare a view of the spec with its images."""
    value_range = next(v.value_range for v in spec.cameras.views if v.name == view)
    color = [look for look in looks if look.shape[-1] != 1]
    for kind, channels in ((deep, 1), (color, 3)):
        if not kind:
            continue
        values = np.concatenate([look.values for look in kind])
        count = f"{len(kind)} of {len(looks)} images of {key!r} that were checked"
        try:
            expect_channels(spec.cameras, view, channels, values, count)
        except WamkitError as problem:
            yield _at(kind[0], problem.what, problem.hint)
    if deep and value_range is not None:
        values = np.concatenate([look.values for look in deep])
        inside = float(((values > value_range[0]) & (values < value_range[1])).mean())
        if inside < INSIDE:
            why = (
                f"{1 - inside:.0%} of the values of {key!r} are beyond value_range = "
                f"[{value_range[0]:g}, {value_range[1]:g}] of view {view!r}, black or white"
            )
            hint = (
                f"they go from {values.min():g} to {values.max():g}: give the range in their unit"
            )
            yield _at(deep[0], why, hint)


def _at(look: ProbedImage, why: str, hint: str) -> Finding:
    file, episode, frame = look.place
    return Finding(file, why, episode, frame, hint)
