"""Arrays in msgpack, byte for byte as openpi writes them, and nothing that can run as code.

An array is a map whose keys are bytes, b"__ndarray__", b"data", b"dtype", b"shape", a numpy scalar
one of b"__npgeneric__", b"data", b"dtype" (openpi, packages/openpi-client, `msgpack_numpy.py`).
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from ..errors import WamkitError
from .quoting import quote, truncate_text

LIMIT = 2**27
"""Bytes of a message: 128 MiB, or 145 images of 480 x 640."""

ITEMS = 2**12
"""Entries of one list or map."""
ALL_ITEMS = 2**16
"""Entries of all lists and maps of a message: large data travels as arrays."""
TEXT = 2**16
"""Bytes of one string."""
AXES = 32
"""Axes of an array."""
BEYOND = re.compile(r"(\d+) exceeds max_(str|bin|array|map|ext)_len\((\d+)\)")
"""Messages of msgpack for values that are too long."""
KINDS = {"str": "bytes of text", "bin": "bytes", "array": "entries of a list"} | {
    "map": "entries of a map",
    "ext": "bytes of an extension type",
}
DTYPE = re.compile(r"[<>=|]?[A-Za-z?]{1,12}\d{0,9}(\[\d{0,6}[A-Za-z]{1,2}\])?")
"""How a type of numpy's is written: `<f4`, `|u1`, `uint8`, `<U7`, `<M8[ns]`."""

SCALARS: dict[str, tuple[type, ...]] = {
    "b": (bool,),
    "i": (int,),
    "u": (int,),
    "f": (int, float),
    "U": (str,),
    "S": (bytes,),
}
"""Kind of numpy's types -> what msgpack has for one value of it."""

REFUSED = "VOc"
"""Kinds of numpy dtypes that are refused: records, Python objects, complex numbers."""


def pack(tree: Any) -> bytes:
    """Encode maps, lists, strings, numbers and arrays. Raises WamkitError for other values."""
    try:
        data: bytes = msgpack.packb(tree, default=_encode)
    except (TypeError, ValueError, OverflowError) as error:
        raise WamkitError(
            f"this cannot be sent: {error}", "send maps, lists, strings, numbers and numpy arrays"
        ) from None
    _expect_small(data)
    return data


def unpack(data: bytes) -> Any:
    """Decode a message of `pack`; arrays are read-only views of the message.

    Raises WamkitError if it is too big, damaged, nested more deeply than msgpack reads, has the
    same key twice, more entries than `ITEMS` and `ALL_ITEMS`, extension types such as timestamps,
    or arrays of a refused dtype. Declared sizes are checked before memory is allocated.
    """
    _expect_small(data)
    values = _Values()
    try:
        return msgpack.unpackb(
            data,
            object_pairs_hook=values.value_of,
            list_hook=values.items_of,
            ext_hook=_refuse_extension,
            max_str_len=TEXT,
            max_bin_len=LIMIT,
            max_array_len=ITEMS,
            max_map_len=ITEMS,
            max_ext_len=TEXT,
            timestamp=0,
        )
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise WamkitError(
            f"a message of {len(data)} bytes that is not openpi's msgpack: {_reason(error)}",
            "send binary frames packed by wamkit.serve.client or openpi-client",
        ) from None


def _reason(error: Exception) -> str:
    """Why msgpack or numpy refused, in a line."""
    if isinstance(error, msgpack.exceptions.StackError | RecursionError):
        return "lists or maps are nested too deeply"
    if found := BEYOND.fullmatch(str(error)):
        count, kind, most = found.groups()
        return f"{count} {KINDS[kind]} at once; expected at most {most}"
    return truncate_text(str(error), 300) or type(error).__name__


class _Values:
    """Makes the lists, maps and arrays of one message, and counts their entries."""

    def __init__(self) -> None:
        self.items = 0

    def items_of(self, found: list[Any]) -> list[Any]:
        """A list as it is."""
        self._count(len(found))
        return found

    def value_of(self, pairs: list[tuple[Any, Any]]) -> Any:
        """Decode a map, or the array or scalar that it encodes."""
        self._count(len(pairs))
        found = dict(pairs)
        if len(found) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            twice = next(key for key, count in counts.items() if count > 1)
            raise ValueError(f"a map with the key {quote(twice)} twice")
        return decode_value(found)

    def _count(self, more: int) -> None:
        self.items += more
        if self.items > ALL_ITEMS:
            raise ValueError(f"more than {ALL_ITEMS} entries; send numbers as arrays")


def _refuse_extension(code: int, data: bytes) -> Any:
    raise ValueError(f"the extension type {code} of msgpack")


def _expect_small(data: bytes) -> None:
    if len(data) > LIMIT:
        raise WamkitError(
            f"a message of {len(data)} bytes; at most {LIMIT} are sent",
            "send smaller images: the policy makes them as small as it needs",
        )


def _encode(value: Any) -> Any:
    """Encode an array or a numpy scalar as a map; msgpack refuses other types."""
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__}")
    if value.dtype.kind in REFUSED:
        raise TypeError(f"an array of {value.dtype}")
    if isinstance(value, np.ndarray):
        return {
            b"__ndarray__": True,
            b"data": value.tobytes(),
            b"dtype": value.dtype.str,
            b"shape": value.shape,
        }
    return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}


def decode_value(found: dict[Any, Any]) -> Any:
    """Decode a map that encodes an array or scalar; else return it unchanged."""
    if b"__ndarray__" in found:
        data, kind, shape = _entry(found, b"data"), _type(found), _shape(_entry(found, b"shape"))
        if not isinstance(data, bytes):
            raise TypeError(f"an array whose data is {quote(data)}, not bytes")
        array: Any = np.ndarray(buffer=data, dtype=kind, shape=shape)
        if array.nbytes != len(data):
            raise ValueError(f"{len(data)} bytes for an array of {array.nbytes}")
        return array
    if b"__npgeneric__" in found:
        data, kind = _entry(found, b"data"), _type(found)
        if not isinstance(data, SCALARS.get(kind.kind, ())):
            raise TypeError(f"a {kind} that is {quote(data)}")
        return kind.type(data)
    return found


def _entry(found: dict[Any, Any], key: bytes) -> Any:
    if key not in found:
        raise ValueError(f"an array without {key!r}")
    return found[key]


def _shape(found: Any) -> tuple[int, ...]:
    """The lengths of the axes, each of which fits into 63 bits."""
    right = isinstance(found, list | tuple) and all(type(n) is int for n in found)
    if not right or len(found) > AXES or any(not 0 <= n < 2**63 for n in found):
        raise ValueError(f"an array of the shape {quote(found)}")
    return tuple(found)


def _type(found: dict[Any, Any]) -> np.dtype[Any]:
    named = _entry(found, b"dtype")
    if not isinstance(named, str) or not DTYPE.fullmatch(named):
        raise TypeError(f"an array of {quote(named)}")
    try:
        kind = np.dtype(named)
    except (TypeError, ValueError, OverflowError, SyntaxError):
        raise TypeError(f"an array of {named}") from None
    if kind.kind in REFUSED or not kind.itemsize:
        raise TypeError(f"an array of {named}")
    return kind
