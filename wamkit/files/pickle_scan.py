"""Inspect a pickled checkpoint without running it: its zip, its opcodes, its globals.

A checkpoint of torch is a zip of records that are not compressed, `data.pkl` and one for each
storage; before torch 1.6 it was five pickles, one behind the other, and then the storages.
"""

from __future__ import annotations

import io
import os
import pickletools
import re
import struct
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from ..errors import WamkitError
from .shards import few

MOST_BYTES = 2**24
"""Bytes of the pickles alone, without the storages: 16 MiB, room for 50,000 tensors."""
MOST_STEPS = 2_000_000
"""The most operations in them; a tensor takes about 35."""
MOST_RECORDS = 200_000
AGAIN = "convert it to safetensors where it was made, or download it again"
STATE = "save the `state_dict()` alone where it was made, as safetensors or with `torch.save`"
_PICKLES = 5  # before torch 1.6: a mark, a version, about the system, the tables, names of storages
_HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)|torch (Size|device|Tensor)|"
    r"torch\._utils _rebuild_(tensor(_v\d)?|parameter(_with_state)?)|"
    r"torch \w+Storage|torch\.storage \w+Storage|torch\._tensor _rebuild_from_type_v2|"
    r"torch\.nn\.parameter Parameter|torch\.serialization _get_layout|_codecs encode|"
    r"(__builtin__|builtins) (set|complex)|torch (b?float|u?int|complex|bool|q)\w*|torch per_\w+"
)
_REBUILT = {
    "torch._utils _rebuild_sparse_tensor": "a sparse tensor",
    "torch._utils _rebuild_qtensor": "a quantized tensor",
    "torch._utils _rebuild_meta_tensor_no_storage": "a tensor without values (meta)",
    "torch._utils _rebuild_nested_tensor": "a nested tensor",
}


class Records(NamedTuple):
    """Facts about a checkpoint that is not loaded."""

    zipped: bool
    sizes: frozenset[int]
    """Bytes of the storages of a zip."""


def scan(file: Path, trusted: Collection[str] = ()) -> Records:
    """Scan a checkpoint without running it.

    `trusted` are further globals that it may name, as "module name". Raises WamkitError if it is
    damaged, compressed, too large for what it may hold, or names a class or function that makes
    anything but tensors and plain tables.
    """
    with file.open("rb") as stream:
        zipped = stream.read(4) == b"PK\x03\x04"  # as torch distinguishes the two formats
        stream.seek(0)
        if not zipped:
            _scan_pickles(file, stream.read(MOST_BYTES), _PICKLES, trusted)
            return Records(zipped, frozenset())
        _expect_directory(file, stream)
        try:
            with ZipFile(stream) as archive:
                records = archive.infolist()
                pickle = _pickle(file, records)
                text = archive.read(pickle)
        except (BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
            raise _unreadable(file, f"its zip is damaged: {error}") from None
    _scan_pickles(file, text, 1, trusted)
    return Records(zipped, frozenset(r.file_size for r in records if "/data/" in r.filename))


def _expect_directory(file: Path, stream: BinaryIO) -> None:
    """Raise WamkitError unless the zip directory is at its stated offset and of a usual size."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - 2**16 - 22))
    begin, tail = stream.tell(), stream.read()
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) < end + 22:
        raise _unreadable(file, "its zip has no directory, as where a download was cut off")
    count, length, offset = struct.unpack("<HLL", tail[end + 10 : end + 20])
    ends = [end]
    place = tail[:end].rfind(b"PK\x06\x06")  # a second end, with room for larger offsets
    if 0 <= place <= end - 56:
        ends.append(place)
        count, length, offset = struct.unpack("<QQQ", tail[place + 32 : place + 56])
    if offset + length not in [begin + one for one in ends]:
        raise _unreadable(file, "the directory of its zip is not at its stated offset")
    if count > MOST_RECORDS or length > 500 * MOST_RECORDS:
        raise _unreadable(file, f"its zip has {count:,} records, at most {MOST_RECORDS:,} are read")


def _pickle(file: Path, records: list[ZipInfo]) -> ZipInfo:
    """The record of the tables. Raises WamkitError if no such zip comes of `torch.save`."""
    names = [record.filename for record in records]
    if any(re.fullmatch(r"[^/]*/constants\.pkl", name) for name in names):
        raise WamkitError(f"{file} is a program in TorchScript, which is not run", STATE)
    if len(set(names)) < len(names):
        raise _unreadable(file, "its zip holds a record twice")
    packed = [r.filename for r in records if r.compress_type != ZIP_STORED]
    packed += [r.filename for r in records if r.file_size != r.compress_size]
    if packed:
        raise WamkitError(
            f"{file} is compressed, and checkpoints are read without unpacking: {few(packed, 3)}",
            "zip it without compression (zip -0), or save it again",
        )
    if sum(record.file_size for record in records) > file.stat().st_size:
        raise _unreadable(file, "its records have more bytes than the file")
    found = [record for record in records if re.fullmatch(r"[^/]*/data\.pkl", record.filename)]
    if len(found) != 1:
        raise _unreadable(file, f"its zip holds {len(found)} records data.pkl, expected one")
    if found[0].file_size > MOST_BYTES:
        raise _unreadable(
            file, f"its tables take {found[0].file_size:,} bytes, at most {MOST_BYTES:,} are read"
        )
    return found[0]


def _scan_pickles(file: Path, text: bytes, count: int, trusted: Collection[str]) -> None:
    """Raise WamkitError unless `text` begins with `count` pickles that only build tables."""
    stream, steps, fault = io.BytesIO(text), 0, ""
    used: dict[str, str] = {}
    key = ""
    try:
        for _ in range(count):
            for operation, argument, _ in pickletools.genops(stream):
                steps += 1
                if operation.name in ("GLOBAL", "INST"):
                    used.setdefault(str(argument), key)
                elif "UNICODE" in operation.name:
                    key = str(argument)
                if operation.name == "STACK_GLOBAL":
                    raise ValueError("it is of a protocol that torch does not write")
                if steps > MOST_STEPS:
                    raise ValueError(f"it takes more than {MOST_STEPS:,} steps")
    except Exception as error:  # of as many kinds as there are ways to hurt a pickle
        fault = " ".join(str(error).split())[:120] or type(error).__name__
    if others := [n for n in used if not _HARMLESS.fullmatch(n) and n not in trusted]:
        names = [_REBUILT.get(n) or _shorten(n.replace(" ", ".")) for n in others]
        places = [f" at {_shorten(used[n])}" if used[n] else "" for n in others]
        found = few([f"{name}{place}" for name, place in zip(names, places, strict=True)], 4)
        raise WamkitError(
            f"{file} is no checkpoint that can be read as data alone: it holds more than tensors "
            f"in tables: {found}",
            STATE,
        )
    if fault:
        raise _unreadable(file, f"its pickle cannot be followed: {fault}")


def _unreadable(file: Path, why: str) -> WamkitError:
    return WamkitError(f"{file} is no checkpoint that can be read as data alone: {why}", AGAIN)


def _shorten(text: str, most: int = 60) -> str:
    """Text as it can be printed, cut where it is long."""
    printed = ascii(text)[1:-1]
    return printed if len(printed) <= most else f"{printed[:most]}..."
