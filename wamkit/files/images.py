"""Image files: six formats are opened, after a look at the size that their headers state.

Pillow opens some fifty formats, one of them by starting a program (EPS by ghostscript), and decodes
any size that a header claims: half a megabyte can claim gigabytes. Of an animation or a file of
several pages only the first image is read.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from ..errors import WamkitError
from .placeholders import refuse_placeholder
from .png import expect_whole
from .variables import PIXELS

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
"""Formats that are opened, by Pillow's names."""
DEFAULT = 2**25
"""Default limit of pixels of an image, without `WAMKIT_MAX_PIXELS`: an 8K video frame."""
MOST = 2 * 89_478_485
"""Pixels that Pillow itself refuses to go beyond (`PIL.Image.MAX_IMAGE_PIXELS`, twice)."""
SCANS = 100
"""Passes over the pixels that one JPEG may ask for; programs write up to 10."""
TILE = (322, 323)
"""Ids of the tags for width and height of the tiles of a TIFF."""
ORIENTATION = 0x0112
"""Id of the EXIF tag of the orientation of an image."""
CURE = f"make it smaller, or set {PIXELS} to more"


def max_pixels() -> int:
    """Return the limit of pixels of an image. Raises WamkitError if the variable holds no count."""
    text = os.environ.get(PIXELS, "").strip()
    if not text:
        return DEFAULT
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:20]) <= MOST):
        raise WamkitError(
            f"{PIXELS} is {text!r}; expected a count of pixels from 1 to {MOST}",
            f"set it to such a count, or unset it for {DEFAULT}",
        )
    return int(text)


def expect_size(width: int, height: int, where: str) -> None:
    """Raise WamkitError if an image of that size has no pixel, or more than `max_pixels`."""
    if width < 1 or height < 1:
        raise WamkitError(f"{where} is {height}x{width} and has no pixel", "save it again")
    if width * height > (most := max_pixels()):
        raise WamkitError(
            f"{where} is {height}x{width}, {width * height:,} pixels; expected at most {most:,}",
            CURE,
        )


@contextmanager
def open_image(source: Path | bytes, where: str) -> Iterator[Image.Image]:
    """Open an image file, or its bytes, without decoding it.

    `where` names it in errors. Raises WamkitError if it is missing, of another format, damaged, or
    asks for more pixels than `max_pixels`; so does what is raised while it is decoded inside
    `with`.
    """
    if isinstance(source, Path):
        if not source.is_file():
            raise WamkitError(f"{where} is not there: {source}", "check the path")
        refuse_placeholder(source)
    with _explain_errors(where), _stream(source) as stream:
        try:
            found = Image.open(stream, formats=FORMATS)
        except UnidentifiedImageError:
            raise _unknown_format_error(stream, where) from None
        with found as image:
            expect_size(*image.size, where)
            _expect_modest(image, stream, where)
            yield image
            if image.format == "PNG" and _may_lack_rows(image):
                expect_whole(stream, where)


def _may_lack_rows(image: Image.Image) -> bool:
    """True for a decoded PNG whose file is worth a second look: missing rows are left black."""
    if getattr(image, "tile", None):  # nothing of it was decoded
        return False
    if image.mode == "P" or image.info.get("interlace"):
        return True
    width, height = image.size
    return image.crop((0, height - 1, width, height)).getbbox(alpha_only=False) is None


def exif_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 without one."""
    found = image.getexif().get(ORIENTATION, 1)
    return found if isinstance(found, int) else 1


def image_error(where: str, error: Exception) -> WamkitError:
    """Return the WamkitError for an error of Pillow."""
    if isinstance(error, MemoryError):
        return WamkitError(f"{where} does not fit into memory", "make it smaller")
    if isinstance(error, Image.DecompressionBombError):
        return WamkitError(f"{where} asks for too many pixels: {error}", "make it smaller")
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    if not isinstance(error, OSError | SyntaxError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    return WamkitError(f"{where} is a damaged image: {reason}", "save or copy it again")


@contextmanager
def _explain_errors(where: str) -> Iterator[None]:
    """Raise any error of a decoder as a WamkitError."""
    try:
        yield
    except WamkitError:
        raise
    except Exception as error:
        raise image_error(where, error) from None


def _stream(source: Path | bytes) -> Any:
    return source.open("rb") if isinstance(source, Path) else io.BytesIO(source)


def _unknown_format_error(stream: Any, where: str) -> WamkitError:
    """Return the error for a file of no known format, by its first bytes."""
    stream.seek(0)
    begins = stream.read(12)
    if not begins:
        return WamkitError(f"{where} is empty", "save or copy it again")
    return WamkitError(
        f"{where} is not an image, or damaged in its first bytes: it begins with {begins!r}; "
        f"expected {', '.join(FORMATS[:-1])} or {FORMATS[-1]}",
        "save it as PNG or JPEG",
    )


def _expect_modest(image: Image.Image, stream: Any, where: str) -> None:
    """Raise WamkitError if decoding costs far more than the image size suggests."""
    width, height = (getattr(image, "tag_v2", {}).get(tag) for tag in TILE)
    if isinstance(width, int) and isinstance(height, int):
        expect_size(width, height, f"a tile of {where}")
    if image.format in ("JPEG", "MPO"):
        place = stream.tell()
        stream.seek(0)
        scans = stream.read().count(b"\xff\xda")
        stream.seek(place)
        if scans > SCANS:
            raise WamkitError(
                f"{where} has {scans} scans; expected at most {SCANS}", "save it as a plain JPEG"
            )
