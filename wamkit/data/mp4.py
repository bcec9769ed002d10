"""A look at the index of an mp4 file before FFmpeg reads it: how many images it speaks of.

A count in the index costs four bytes, and FFmpeg takes memory for each sample that is counted. A
sample has at least one byte, so there are no more of them than the file has bytes. Format: ISO/IEC
14496-12, boxes stsz and stz2 (8.7.3), stts and ctts (8.6.1), trun (8.8.8).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from ..errors import WamkitError

OTHERS = (b"\x1a\x45\xdf\xa3", b"RIFF")  # how mkv and avi begin, whose indexes count one by one
COUNTS = {b"stsz": 8, b"stz2": 8, b"trun": 4}
"""Box -> bytes after its name at which its number of samples is."""
RUNS = (b"stts", b"ctts")  # boxes of pairs: how many samples, and their time


def expect_index(file: Path) -> None:
    """Raises WamkitError if the index of an mp4 file counts more samples than it has bytes."""
    with file.open("rb") as stream:
        if stream.read(4) in (*OTHERS, b""):
            return
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            counted = dict.fromkeys((*COUNTS, *RUNS), 0)
            for start, end in _boxes(data):
                if data.find(b"cmov", start, end) >= 0:
                    raise WamkitError(f"{file} has a compressed index", "write the video again")
                for name, place in COUNTS.items():
                    for at in _places(data, name, start, end):
                        counted[name] += _number(data, at + 4 + place)
                for name in RUNS:
                    for at in _places(data, name, start, end):
                        counted[name] += _runs(data, at, end)
            size = len(data)
    most = max(counted.values())
    if most > size:
        raise WamkitError(
            f"{file} has {size:,} bytes, and its index speaks of {most:,} images or samples",
            "the file is damaged: copy it again, or write the video again",
        )


def _boxes(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Start and end of the boxes at the top of the file, but for those of the images."""
    start, size = 0, len(data)
    while start + 8 <= size:
        length, name = struct.unpack_from(">I4s", data, start)
        if length == 1 and start + 16 <= size:
            (length,) = struct.unpack_from(">Q", data, start + 8)
        end = size if length < 8 else min(size, start + length)
        if name != b"mdat":
            yield start, end
        start = end


def _places(data: mmap.mmap, name: bytes, start: int, end: int) -> Iterator[int]:
    """Where a box of this name may be, whatever it is within."""
    at = data.find(name, start, end)
    while at >= 0:
        yield at
        at = data.find(name, at + 4, end)


def _number(data: mmap.mmap, at: int) -> int:
    return int(struct.unpack_from(">I", data, at)[0]) if at + 4 <= len(data) else 0


def _runs(data: mmap.mmap, at: int, end: int) -> int:
    """The samples of a box of runs together."""
    first = at + 12
    pairs = min(_number(data, at + 8), max(0, end - first) // 8)
    return sum(count for count, _ in struct.iter_unpack(">II", data[first : first + 8 * pairs]))
