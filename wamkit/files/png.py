"""Check that a PNG is complete before decoding: Pillow leaves missing rows black.

The layout is that of the PNG specification (third edition): chunks in section 5.3, sizes of rows
and of the seven passes of an interlaced image in sections 8.1 and 9.2.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from ..errors import WamkitError

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PASSES = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row, step of columns, step of rows."""
_PIECE = 2**20  # bytes that are inflated at a time


def expect_whole(stream: BinaryIO, where: str) -> None:
    """Raise WamkitError if a PNG holds fewer rows than its header states, or lacks its palette.

    The stream is left where it was. Chunks that cannot be followed are left to Pillow.
    """
    place = stream.tell()
    stream.seek(0)
    try:
        _expect_whole(stream, where)
    finally:
        stream.seek(place)


def _expect_whole(stream: BinaryIO, where: str) -> None:
    wanted, color, found, has_palette = 0, 0, 0, False
    inflate = zlib.decompressobj()
    for kind, data in _chunks(stream):
        if kind == b"IHDR" and len(data) == 13:
            width, height, bits, color, _, _, interlaced = struct.unpack(">IIBBBBB", data)
            wanted = _size(width, height, bits * _CHANNELS.get(color, 0), bool(interlaced))
        elif kind == b"PLTE":
            has_palette = True
        elif kind == b"IDAT" and found < wanted:
            found += _count_inflated(inflate, data, wanted - found)
    if color == 3 and not has_palette:
        raise WamkitError(f"{where} is a damaged image: it has no palette", "save or copy it again")
    if found < wanted:
        raise WamkitError(
            f"{where} is a damaged image: it holds {found:,} of {wanted:,} bytes of pixels",
            "save or copy it again",
        )


def _chunks(stream: BinaryIO) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of each chunk until the pixels end; without data for irrelevant kinds."""
    stream.seek(8)
    seen = False
    while len(head := stream.read(8)) == 8:
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND" or (seen and kind != b"IDAT"):
            return
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            yield kind, stream.read(size)
        else:
            stream.seek(size, 1)
        seen = kind == b"IDAT"
        stream.seek(4, 1)


def _count_inflated(inflate: zlib._Decompress, data: bytes, most: int) -> int:
    """Count the bytes that `data` decompresses to, up to `most` or the first damage."""
    count = 0
    try:
        while data and count < most and not inflate.eof:
            count += len(inflate.decompress(data, _PIECE))
            data = inflate.unconsumed_tail
    except zlib.error:
        return count
    return count


def _size(width: int, height: int, bits: int, interlaced: bool) -> int:
    """Bytes of all rows, each with the byte that names its filter."""
    if not interlaced:
        return height * (1 + (width * bits + 7) // 8)
    total = 0
    for left, top, across, down in _PASSES:
        columns = (width - left + across - 1) // across
        rows = (height - top + down - 1) // down
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total
