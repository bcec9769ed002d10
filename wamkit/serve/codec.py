"""Arrays in msgpack, byte for byte as openpi writes them, and nothing that can run as code.

An array is a map whose keys are bytes, b"__ndarray__", b"data", b"dtype", b"shape", a numpy scalar
one of b"__npgeneric__", b"data", b"dtype" (openpi, packages/openpi-client, `msgpack_numpy.py`).
"""

from __future__ import annotations

from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np

from ..errors import WamkitError

LIMIT = 2**27
"""Bytes of a message: 128 MiB, or 145 pictures of 480 x 640."""

REFUSED = "VOc"
"""Kinds of numpy's types that do not travel: records, Python objects, complex numbers."""


def pack(tree: Any) -> bytes:
    """Maps, lists, words, numbers and arrays as one message. Raises WamkitError for others."""
    try:
        data: bytes = msgpack.packb(tree, default=_plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise WamkitError(
            f"this cannot be sent: {error}", "send maps, lists, words, numbers and numpy arrays"
        ) from None
    _expect_small(data)
    return data


def unpack(data: bytes) -> Any:
    """What `pack` packed; arrays are read-only views of the message.

    Raises WamkitError if it is too big, damaged, or holds arrays that do not travel.
    """
    _expect_small(data)
    try:
        return msgpack.unpackb(data, object_hook=_array)
    except (TypeError, ValueError, KeyError) as error:
        raise WamkitError(
            f"a message of {len(data)} bytes that is not openpi's msgpack: {error}",
            "send binary frames packed by wamkit.serve.client or openpi-client",
        ) from None


def _expect_small(data: bytes) -> None:
    if len(data) > LIMIT:
        raise WamkitError(
            f"a message of {len(data)} bytes; at most {LIMIT} are sent",
            "send smaller pictures: the policy makes them as small as it needs",
        )


def _plain(value: Any) -> Any:
    """An array or a numpy scalar as a map; msgpack refuses what is neither."""
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


def _array(found: dict[Any, Any]) -> Any:
    """A map as the array or scalar that it stands for, if it does."""
    if b"__ndarray__" in found:
        data = found[b"data"]
        array: Any = np.ndarray(buffer=data, dtype=_type(found), shape=found[b"shape"])
        if array.nbytes != len(data):
            raise ValueError(f"{len(data)} bytes for an array of {array.nbytes}")
        return array
    if b"__npgeneric__" in found:
        return _type(found).type(found[b"data"])
    return found


def _type(found: dict[Any, Any]) -> np.dtype[Any]:
    named = found[b"dtype"]
    if not isinstance(named, str) or np.dtype(named).kind in REFUSED:
        raise TypeError(f"an array of {named}")
    return np.dtype(named)
