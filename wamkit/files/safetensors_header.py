"""The header of a safetensors file: names, shapes, dtypes, compared with the file; no torch.

    8 bytes, the length of the header | the header, JSON | the bytes of all tensors, without a gap

Sizes in a header never decide an allocation. Source of the format:
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from . import strict_json
from .placeholders import refuse_placeholder

DAMAGED = "the file is damaged or incomplete: download or copy it again"
MOST_BYTES = 2**24
"""The longest header that is read: 16 MiB, room for 100,000 tensors."""
MOST_NESTED = 1_000_000
"""The most lists and tables in it, counted by their brackets, those within texts included."""
MOST_TENSORS = 50_000
"""The most tensors of one model, over all its files."""
MOST_AXES = 64
LONGEST_NAME = 500
"""Characters of the name of a tensor."""
BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("BF16", "F16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
}
"""dtype -> bits of a value, for the dtypes that are read; others are refused when loaded."""
_KEYS = {"dtype", "shape", "data_offsets"}

Header = dict[str, tuple[tuple[int, ...], str]]


def header(file: Path) -> Header:
    """name -> shape, dtype.

    Raises WamkitError if the file is no safetensors file, its size is not what its header says, or
    a tensor is described in a way that cannot be.
    """
    refuse_placeholder(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = _length(file, stream.read(8), size)
        table = _table(file, stream.read(length))
    spans: list[tuple[int, int, str]] = []
    found: Header = {}
    for name, entry in table.items():
        if name == "__metadata__":
            continue
        expect_name(name, str(file))
        if (fault := _fault(entry)) is not None:
            raise WamkitError(
                f"{file} is damaged: of tensor {name} its header says {fault}", DAMAGED
            )
        begin, end = entry["data_offsets"]
        spans.append((begin, end, name))
        found[name] = (tuple(entry["shape"]), entry["dtype"])
    expected = 8 + length + max((end for _, end, _ in spans), default=0)
    if size != expected:
        state = "truncated" if size < expected else "too long"
        off = f"{abs(expected - size):,} bytes {'missing' if size < expected else 'too many'}"
        raise WamkitError(
            f"{file} is {state}: found {size} bytes, its header says {expected} ({off})", DAMAGED
        )
    _expect_adjacent(file, spans)
    return found


def expect_name(name: str, where: str) -> None:
    """Raise WamkitError if `name`, which `where` holds, cannot be that of a tensor."""
    fault = None
    if not name:
        fault = "without a name"
    elif len(name) > LONGEST_NAME:
        fault = f"whose name has {len(name):,} characters ({name[:40]}...), at most {LONGEST_NAME}"
    elif not name.isprintable():
        fault = f"whose name holds characters that cannot be printed: {ascii(name)[:80]}"
    if fault is not None:
        raise WamkitError(
            f"{where} holds a tensor {fault}", "save the weights again, under names of parameters"
        )


def expect_few(names: Iterable[Any], count: int, where: str) -> None:
    """Raise WamkitError if `where` holds more tensors than any model has."""
    if count > MOST_TENSORS:
        first = ", ".join(ascii(name)[1:40].rstrip("'") for name in islice(names, 3))
        raise WamkitError(
            f"{where} holds {count:,} tensors ({first}, ...), and no more than {MOST_TENSORS:,} "
            "are read",
            "name the weights of one model",
        )


def _length(file: Path, start: bytes, size: int) -> int:
    """Bytes of the header, if it fits into the file and is no longer than headers are."""
    if start[:4] == b"GGUF":
        raise WamkitError(
            f"{file} is a GGUF file, whose weights are quantized in blocks",
            "name the weights as safetensors",
        )
    length: int = struct.unpack("<Q", start)[0] if len(start) == 8 else size
    if length > size - 8:
        known = _pickle(start)
        raise WamkitError(
            f"{file} is no safetensors file: its header does not fit into it"
            + (f"; it is {known}" if known else ""),
            "give it its own ending (.pt), or convert it" if known else DAMAGED,
        )
    if length > MOST_BYTES:
        raise WamkitError(
            f"{file} has a header of {length:,} bytes, and no more than {MOST_BYTES:,} are read",
            DAMAGED,
        )
    return length


def _table(file: Path, text: bytes) -> Mapping[str, Any]:
    """The header as a table of tables."""
    nested = text.count(b"[") + text.count(b"{")
    if nested > MOST_NESTED:
        raise WamkitError(
            f"{file} has a header with {nested:,} lists and tables, and no more than "
            f"{MOST_NESTED:,} are read",
            DAMAGED,
        )
    try:
        table = strict_json.loads(text)
    except ValueError as error:
        message = f"{error}"[:200]
        raise WamkitError(
            f"{file} is no safetensors file: its header is garbled ({message})", DAMAGED
        ) from None
    if not isinstance(table, dict):
        raise WamkitError(
            f"{file} is no safetensors file: its header is a {type(table).__name__}, expected a "
            "table of tensors",
            DAMAGED,
        )
    about = table.get("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(v, str) for v in about.values()):
        raise WamkitError(
            f"{file} is damaged: __metadata__ in its header is no table of texts", DAMAGED
        )
    expect_few(table, len(table), str(file))
    return table


def _fault(entry: Any) -> str | None:
    """Describe an invalid entry of a tensor; None if it is valid."""
    if not isinstance(entry, dict) or entry.keys() != _KEYS:
        keys = f"the keys {_brief(sorted(entry))}" if isinstance(entry, dict) else _brief(entry)
        return f"{keys}, expected dtype, shape and data_offsets"
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or not dtype.isprintable() or not 0 < len(dtype) <= 32:
        return f"dtype = {_brief(dtype)}, expected the code of one, such as F32"
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        return f"shape = {_brief(shape)}, expected a list of whole numbers from 0"
    if len(shape) > MOST_AXES or prod(max(size, 1) for size in shape) >= 2**63:
        return f"shape = {_brief(shape)}, more than any tensor has"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        return f"data_offsets = {_brief(offsets)}, expected where it begins and ends, in bytes"
    begin, end = offsets
    if begin > end:
        return f"data_offsets = {offsets}, an end before the beginning"
    needed = prod(shape) * BITS.get(dtype, 0)
    if dtype in BITS and needed != 8 * (end - begin):
        return (
            f"{end - begin:,} bytes (data_offsets = {offsets}) for {needed // 8:,}, which "
            f"{dtype} {shape} takes"
        )
    return None


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _expect_adjacent(file: Path, spans: list[tuple[int, int, str]]) -> None:
    """Raise WamkitError unless each tensor begins where another ends."""
    before, last = 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != before:
            how = "overlaps" if begin < before else "leaves a gap behind"
            raise WamkitError(
                f"{file} is damaged: tensor {name} {how} {last}: it begins at byte {begin:,} of "
                f"the data, expected {before:,}",
                DAMAGED,
            )
        before, last = end, name


def _brief(value: Any, most: int = 60) -> str:
    """A value as JSON writes it, cut where it is long."""
    if isinstance(value, list) and len(value) > 8:
        return f"a list of {len(value):,}"
    text = ascii(value)
    return text if len(text) <= most else f"{text[:most]}..."


def _pickle(start: bytes) -> str | None:
    if start[:4] == b"PK\x03\x04":
        return "a pickled checkpoint of torch, under the name of a safetensors file"
    return "a pickle, under the name of a safetensors file" if start[:1] == b"\x80" else None
