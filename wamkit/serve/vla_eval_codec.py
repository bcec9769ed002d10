"""Messages of vla-eval's protocol: msgpack, with arrays and images as maps with text for keys.

A message is a map of type, payload, seq and timestamp (vla-eval 0.8, `protocol/messages.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import WamkitError
from ..files.pixels import decode_pixels
from .codec import decode_value, pack, unpack
from .fields import ENCODINGS
from .quoting import list_values, quote

TYPES = ("hello", "observation", "action", "episode_start", "episode_end", "error")
_ARRAY, _IMAGE = "__ndarray__", "__image__"


def pack_message(kind: str, payload: Mapping[str, Any], seq: int) -> bytes:
    """Encode a message; arrays of the payload, at its first level alone, are encoded too."""
    values = {key: _encode(value) for key, value in payload.items()}
    return pack({"type": kind, "payload": values, "seq": seq, "timestamp": time.time()})


def unpack_message(data: str | bytes) -> tuple[str, dict[str, Any], int]:
    """Type, payload as it came and number of a message. Raises WamkitError if it is none."""
    if isinstance(data, str):
        raise WamkitError("a text frame", "send binary frames of msgpack")
    found = unpack(data)
    if not isinstance(found, dict) or not {"type", "payload", "seq"} <= found.keys():
        raise WamkitError(
            "a message without type, payload and seq",
            "connect with vla-eval, or wamkit serve without --protocol for openpi's clients",
        )
    kind, payload, seq = found["type"], found["payload"], found["seq"]
    if kind not in TYPES or not isinstance(payload, dict) or type(seq) is not int:
        raise WamkitError(
            f"a message of type {quote(kind)}, number {quote(seq)}",
            f"the types are {', '.join(TYPES)}; payloads are maps",
        )
    return kind, payload, seq


def decode_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """A payload whose arrays and images are decoded. Raises WamkitError if one is damaged."""
    try:
        return {key: _decode(key, value) for key, value in payload.items()}
    except (TypeError, ValueError, KeyError) as error:
        raise WamkitError(
            f"a damaged array in a message: {error}", "send arrays packed by vla-eval"
        ) from None


def _encode(value: Any) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    shape = list(value.shape)
    return {_ARRAY: True, "data": value.tobytes(), "dtype": value.dtype.str, "shape": shape}


def _decode(key: Any, value: Any) -> Any:
    """A value whose arrays and images, at any depth, are decoded."""
    if isinstance(value, list):
        return [_decode(key, item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get(_IMAGE) is True and value.get("format") != "raw":
        return _decode_image(key, value)
    if value.get(_ARRAY) is True or value.get(_IMAGE) is True:
        names = ("data", "dtype", "shape")
        return decode_value({b"__ndarray__": True, **{n.encode(): value[n] for n in names}})
    return {name: _decode(name, item) for name, item in value.items()}


def _decode_image(key: Any, value: Mapping[str, Any]) -> NDArray[Any]:
    data = value.get("data")
    if not isinstance(data, bytes):
        raise WamkitError(f"the image {quote(key)} holds {list_values(value)}", "send PNG or JPEG")
    return decode_pixels(data, f"image {quote(key)}", ENCODINGS)
