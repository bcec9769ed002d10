"""Messages: openpi's bytes, what does not travel, and what is damaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wamkit.errors import WamkitError
from wamkit.serve import codec

# Written by hand after msgpack's specification and openpi's msgpack_numpy: a map of four (84), the
# keys as bytes (c4, length), True (c3), a string (a3), an array of two (92).
ARRAY = (
    b"\x84\xc4\x0b__ndarray__\xc3\xc4\x04data\xc4\x06\x01\x02\x03\x04\x05\x06"
    b"\xc4\x05dtype\xa3|u1\xc4\x05shape\x92\x02\x03"
)
SCALAR = (
    b"\x83\xc4\x0d__npgeneric__\xc3\xc4\x04data\xcb\x3f\xe0\x00\x00\x00\x00\x00\x00"
    b"\xc4\x05dtype\xa3<f4"
)


def test_an_array_is_the_bytes_that_openpi_writes() -> None:
    array = np.arange(1, 7, dtype=np.uint8).reshape(2, 3)
    assert codec.pack(array) == ARRAY
    found = codec.unpack(ARRAY)
    assert found.dtype == np.uint8 and np.array_equal(found, array)
    assert codec.pack(array[:, ::-1][:, ::-1]) == ARRAY  # whatever its strides


def test_a_scalar_is_the_bytes_that_openpi_writes() -> None:
    assert codec.pack(np.float32(0.5)) == SCALAR
    found = codec.unpack(SCALAR)
    assert found == 0.5 and isinstance(found, np.float32)


@pytest.mark.parametrize(
    "array",
    [
        np.float32(1).reshape(()),
        np.zeros((0, 3), np.int64),
        np.array([True, False]),
        np.array([1.5, -2], ">f8"),
        np.array(["pick", "up"]),
    ],
    ids=lambda a: f"{a.dtype.str}{list(a.shape)}",
)
def test_arrays_of_every_shape_travel(array: Any) -> None:
    found = codec.unpack(codec.pack({"nested": [array]}))["nested"][0]
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_what_arrives_cannot_be_written_to() -> None:
    assert not codec.unpack(ARRAY).flags.writeable


@pytest.mark.parametrize(
    "value",
    [np.array([object()]), np.array([1j]), np.zeros(1, "f4,f4"), np.complex64(1), {1, 2}],
    ids=["object", "complex", "record", "complex number", "set"],
)
def test_objects_records_and_complex_numbers_are_not_sent(value: Any) -> None:
    with pytest.raises(WamkitError, match="this cannot be sent"):
        codec.pack({"x": value})


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (ARRAY.replace(b"|u1", b"|O8"), "an array of |O8"),
        (ARRAY.replace(b"|u1", b"|V1"), "an array of |V1"),
        (ARRAY.replace(b"|u1", b"<c8"), "an array of <c8"),
        (ARRAY.replace(b"|u1", b"<f8"), "buffer is too small"),
        (ARRAY.replace(b"\x92\x02\x03", b"\x92\x02\x02"), "6 bytes for an array of 4"),
        (ARRAY.replace(b"shape", b"shapo"), "b'shape'"),
        (SCALAR.replace(b"<f4", b"|O8"), "an array of |O8"),
        (ARRAY[:-1], "incomplete"),
        (b"\x81\x01\x02", "int is not allowed for map key"),
        (b"\xc1", "not openpi's msgpack"),
        (b"", "incomplete"),
    ],
)
def test_what_is_damaged_or_dangerous_is_refused_with_a_message(data: bytes, why: str) -> None:
    with pytest.raises(WamkitError, match="not openpi's msgpack") as found:
        codec.unpack(data)
    assert why in str(found.value)


def test_a_message_has_a_size_that_it_may_not_exceed(monkeypatch: Any) -> None:
    monkeypatch.setattr(codec, "LIMIT", 10)
    with pytest.raises(WamkitError, match=f"{len(ARRAY)} bytes; at most 10 are sent"):
        codec.unpack(ARRAY)
    with pytest.raises(WamkitError, match="send smaller images"):
        codec.pack(np.zeros(6, np.uint8))
