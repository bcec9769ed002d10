"""Images as arrays: color in 8 bits a channel, or one deep channel in the image's own units.

A deep image has one channel of more than 8 bits: depth in millimeters, 16-bit gray, floats.
Its values are not scaled here: `value_range` in the spec defines black and white of a view,
in `wamkit.policy.cameras`, the same in data sets, servers and files.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import WamkitError
from .images import FORMATS, exif_orientation, expect_size, image_error, open_image
from .paths import expand_home

COLORS = re.compile(r"^(?:L|LA|La|RGB|RGBA|RGBX|RGBa|CMYK|[RGBAXCMYK]);(?:16|32)")
"""How Pillow calls channels of more than 8 bits in files of which it keeps 8."""
DEEP = ("I", "F")
"""How its modes of one deep channel begin."""
UPRIGHT = {2: (0, True), 3: (2, False), 4: (2, True), 5: (3, True), 6: (3, False)} | {
    7: (1, True),
    8: (1, False),
}
"""Orientation -> quarter turns to the left, and whether left and right then change places."""
MEASURED = "write 0 where the camera measured nothing"


def is_deep(image: NDArray[Any]) -> bool:
    """True for [height, width, 1], in units of its own."""
    return image.shape[-1] == 1


def pixels(image: Image.Image, where: str) -> NDArray[Any]:
    """Convert an image to uint8 [height, width, 3], or float32 [height, width, 1] of a deep image.

    Raises WamkitError if the image is damaged, has more pixels than
    `wamkit.files.images.max_pixels` or colors of more than 8 bits, which Pillow would cut, or a
    deep one a number that is not finite.
    """
    expect_size(*image.size, where)
    if any(_cut(tile) for tile in getattr(image, "tile", ())):
        raise WamkitError(
            f"{where} has {image.mode} channels of more than 8 bits",
            "save colors in 8 bits a channel, and depth as one channel of 16 bits",
        )
    try:
        if not image.mode.startswith(DEEP):
            return np.array(image.convert("RGB"))
        values = np.asarray(image)
    except Exception as error:  # decoders raise errors of every kind
        raise image_error(where, error) from None
    return to_deep_image(values, where)


def to_deep_image(values: NDArray[Any], where: str) -> NDArray[np.float32]:
    """One channel [height, width] or [..., height, width, 1] as float32 [..., height, width, 1].

    Raises WamkitError if a number is not finite.
    """
    with np.errstate(over="ignore"):
        found = values.astype(np.float32)
    found = found[..., None] if found.ndim == 2 else found
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        row, column = bad[0][-3:-1]
        raise WamkitError(
            f"{where} holds {found[tuple(bad[0])]} at row {row}, column {column}, "
            f"{len(bad)} of {found.size} pixels",
            MEASURED,
        )
    return found


def read_pixels(path: str | Path) -> NDArray[Any]:
    """An image from a file, upright, as `pixels` gives it.

    Raises WamkitError if there is none, or it is no image, and as `pixels` does.
    """
    file = expand_home(path)
    if not file.is_file():
        raise WamkitError(f"no image at {file}", "check the path")
    return decode_pixels(file, str(file))


def decode_pixels(
    source: Path | bytes, where: str, formats: Sequence[str] = FORMATS
) -> NDArray[Any]:
    """An image from a file or its bytes, upright, as `pixels` gives it; `where` names it in errors.

    Raises WamkitError if it is of none of `formats`, and as `pixels` does.
    """
    with open_image(source, where) as image:
        if image.format not in formats:
            raise WamkitError(
                f"{where} is a {image.format} file; expected {' or '.join(formats)}",
                f"save it as {formats[0]}",
            )
        found = pixels(image, where)
        orientation = exif_orientation(image)
    turns, mirrored = UPRIGHT.get(orientation, (0, False))
    found = np.rot90(found, turns)
    return np.ascontiguousarray(found[:, ::-1] if mirrored else found)


def to_jpeg(image: NDArray[np.uint8], quality: int = 85) -> bytes:
    """uint8 [height, width, 3] as the bytes of a JPEG file; `quality` is from 1 to 95."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _cut(tile: Any) -> bool:
    """True if Pillow keeps only 8 bits of this tile."""
    codec, args = str(tile[0]), tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    if codec.startswith("ppm") and str(args[0]) != "I":
        return any(isinstance(arg, int) and arg > 255 for arg in args[1:])
    return any(isinstance(arg, str) and COLORS.match(arg) for arg in args)
