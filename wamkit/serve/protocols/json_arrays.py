"""Messages of HTTP: bodies of JSON with arrays of json_numpy, base64 or lists."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import WamkitError
from ..codec import decode_value
from ..quoting import quote

JSON, MSGPACK = "application/json", "application/msgpack"


@dataclass(frozen=True)
class HttpMessage:
    """The body of a request, and the headers that say what it is."""

    body: bytes
    content_type: str = JSON
    accept: str = ""


def read_json(body: bytes | str, hook: Callable[[dict[str, Any]], Any] | None = None) -> Any:
    """A body of JSON. Raises WamkitError if it is none."""
    try:
        return json.loads(body, object_hook=hook)
    except (ValueError, RecursionError, TypeError) as error:
        raise WamkitError(
            f"a body of {len(body)} bytes that is not JSON: {str(error)[:200]}",
            "send a map as JSON",
        ) from None


def from_base64(text: Any) -> bytes:
    """Bytes of base64. Raises ValueError."""
    if not isinstance(text, str):
        raise ValueError(f"{quote(text)} is no base64")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"no base64: {error}") from None


def read_array(found: dict[str, Any]) -> Any:
    """An array of json_numpy: `__numpy__`, `dtype` and `shape`; other maps unchanged."""
    if "__numpy__" not in found:
        return found
    data, shape = from_base64(found["__numpy__"]), found.get("shape")
    named = {b"data": data, b"dtype": found.get("dtype"), b"shape": shape}
    array = decode_value({b"__ndarray__": True, **named})
    return array if shape else array[()]


def to_json(value: Any) -> bytes:
    """A body of JSON, with arrays as json_numpy writes them."""
    return json.dumps(value, default=_array, allow_nan=False).encode()


def _array(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__}")
    data = base64.b64encode(value.tobytes()).decode()
    return {"__numpy__": data, "dtype": value.dtype.str, "shape": list(value.shape)}


def to_image(found: Any, key: str) -> Any:
    """A list of numbers as an image uint8; other values unchanged. Raises WamkitError."""
    if not isinstance(found, list):
        return found
    try:
        array = np.asarray(found)
    except ValueError:
        array = np.zeros(0)
    if array.dtype.kind not in "iu" or array.size == 0 or array.min() < 0 or array.max() > 255:
        raise WamkitError(f"{key!r} is no image", "send integers of 0 to 255 [height, width, 3]")
    return array.astype(np.uint8)
