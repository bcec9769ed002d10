"""A PNG that holds fewer rows than it says is damaged, whatever Pillow makes of it."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wamkit import WamkitError
from wamkit.files.pixels import read_pixels

COLORS = np.random.default_rng(0).integers(1, 256, (48, 40, 3), np.uint8)


def chunks_of(image: Image.Image) -> list[tuple[bytes, bytes]]:
    """The chunks of the image as a PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    data, found, at = stream.getvalue(), [], 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += size + 12
    return found


def png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def cut(image: Image.Image, share: float) -> bytes:
    """A valid PNG that ends after this share of its rows."""
    chunks = chunks_of(image)
    rows = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    kept = zlib.compress(rows[: int(len(rows) * share)])
    head = [c for c in chunks if c[0] in (b"IHDR", b"PLTE")]
    return png([*head, (b"IDAT", kept[:20]), (b"IDAT", kept[20:]), (b"IEND", b"")])


def read(data: bytes, tmp_path: Any) -> np.ndarray:
    (tmp_path / "a.png").write_bytes(data)
    return read_pixels(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
def test_rows_that_are_missing_are_refused(mode: str, tmp_path: Any) -> None:
    image = Image.fromarray(COLORS).convert(mode)
    assert read(cut(image, 1.0), tmp_path).shape[:2] == (48, 40)
    for share in (0.0, 0.5, 0.97):
        with pytest.raises(WamkitError, match="a damaged image"):
            read(cut(image, share), tmp_path)


def test_an_image_whose_last_rows_are_black_is_whole(tmp_path: Any) -> None:
    black = COLORS.copy()
    black[-9:] = 0
    assert (read(cut(Image.fromarray(black), 1.0), tmp_path) == black).all()


def test_an_interlaced_image_is_measured_by_its_passes(tmp_path: Any) -> None:
    passes = [(1, 1), (1, 1), (1, 1), (3, 1), (2, 2), (5, 1)]  # columns, rows; one is empty
    rows = b"".join((b"\0" + b"\x07" * columns) * count for columns, count in passes)
    head = (b"IHDR", struct.pack(">IIBBBBB", 5, 3, 8, 0, 0, 0, 1))
    whole = png([head, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])
    assert (read(whole, tmp_path) == 7).all()
    with pytest.raises(WamkitError, match="holds 16 of 22 bytes"):
        read(png([head, (b"IDAT", zlib.compress(rows[:16])), (b"IEND", b"")]), tmp_path)


def test_a_palette_image_without_a_palette_is_refused(tmp_path: Any) -> None:
    image = Image.fromarray(COLORS).convert("P")
    chunks = [c for c in chunks_of(image) if c[0] != b"PLTE"]
    with pytest.raises(WamkitError, match="a damaged image"):
        read(png(chunks), tmp_path)
