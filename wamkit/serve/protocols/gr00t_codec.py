"""Arrays of Isaac GR00T in msgpack: as files of `np.save` (N1.6), or as msgpack-numpy (N1.7).

Neither is read as a pickle, and no array is allocated before its size is compared with its bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from ...errors import WamkitError
from ..codec import decode_value, pack, unpack
from ..quoting import quote

NPY, MSGPACK = "npy", "msgpack"
HEADER = 4096
"""Bytes of the header of a file of `np.save`."""
REFUSED = "VOc"


def read_npy(data: Any) -> NDArray[Any]:
    """An array from the bytes of `np.save`. Raises ValueError if it is none, or holds objects."""
    if not isinstance(data, bytes):
        raise ValueError(f"as_npy is {quote(data)}, not bytes")
    stream = io.BytesIO(data)
    version = npy.read_magic(stream)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"np.save of version {version}")
    shape, fortran, kind = readers[version](stream, max_header_size=HEADER)
    if kind.kind in REFUSED or not kind.itemsize:
        raise ValueError(f"an array of {kind}")
    rest = data[stream.tell() :]
    count = 1
    for length in shape:
        count *= length
    if count < 0 or count * kind.itemsize != len(rest):
        raise ValueError(f"{len(rest)} bytes for an array {list(shape)} of {kind}")
    return np.frombuffer(rest, kind).reshape(shape, order="F" if fortran else "C")


def unpack_gr00t(data: bytes) -> tuple[Any, str]:
    """A message, and the form of its arrays. Raises WamkitError if it is damaged."""
    forms: set[str] = set()
    try:
        found = _decode(unpack(data), forms)
    except (ValueError, TypeError, KeyError, SyntaxError) as error:
        raise WamkitError(
            f"a damaged array in a message: {error}", "send arrays packed by gr00t's client"
        ) from None
    return found, MSGPACK if MSGPACK in forms else NPY


def pack_gr00t(value: Any, form: str) -> bytes:
    """A message with arrays in one of the two forms."""
    return pack(_encode(value, _as_npy if form == NPY else _as_msgpack))


def _decode(found: Any, forms: set[str]) -> Any:
    if isinstance(found, list):
        return [_decode(item, forms) for item in found]
    if not isinstance(found, dict):
        return found
    keys = {key.decode() if isinstance(key, bytes) else key: value for key, value in found.items()}
    if keys.get("__ndarray_class__"):
        forms.add(NPY)
        return read_npy(keys.get("as_npy"))
    if "nd" in keys and "data" in keys:
        forms.add(MSGPACK)
        return _from_msgpack(keys)
    if keys.get("complex") is True:
        raise ValueError("a complex number")
    return {key: _decode(value, forms) for key, value in found.items()}


def _from_msgpack(found: Mapping[Any, Any]) -> Any:
    """An array or scalar of msgpack-numpy."""
    kind = found.get("type")
    kind = kind.decode() if isinstance(kind, bytes) else kind
    shape = found.get("shape", []) if found["nd"] else []
    named = {b"data": found["data"], b"dtype": kind, b"shape": shape}
    array = decode_value({b"__ndarray__": True, **named})
    return array if found["nd"] else array[()]


def _encode(value: Any, form: Callable[[NDArray[Any]], dict[Any, Any]]) -> Any:
    if isinstance(value, np.ndarray):
        return form(value)
    if isinstance(value, Mapping):
        return {key: _encode(item, form) for key, item in value.items()}
    return [_encode(item, form) for item in value] if isinstance(value, list | tuple) else value


def _as_npy(value: NDArray[Any]) -> dict[Any, Any]:
    stream = io.BytesIO()
    np.save(stream, value, allow_pickle=False)
    return {"__ndarray_class__": True, "as_npy": stream.getvalue()}


def _as_msgpack(value: NDArray[Any]) -> dict[Any, Any]:
    made = {b"nd": True, b"type": value.dtype.str, b"kind": b""}
    return {**made, b"shape": list(value.shape), b"data": value.tobytes()}
