"""Messages of untrusted authors: each is answered in a short text, and nobody else notices."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import msgpack  # type: ignore[import-untyped]
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

import wamkit
from wamkit.errors import WamkitError, printable
from wamkit.policy.policy import Policy
from wamkit.serve import codec
from wamkit.serve.client import Client
from wamkit.serve.quoting import quote, truncate_text
from wamkit.serve.server import Server, address_of, bind, run_in_thread

IMAGE = np.zeros((40, 60, 3), np.uint8)


@cache
def policy() -> Policy:
    return wamkit.build("examples/toy.toml", ["state.size=2", "action_head.state=token"], tiny=True)


@pytest.fixture(scope="module")
def address() -> Iterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy(), "toy"), listener):
        yield address_of(listener)


@pytest.fixture(scope="module")
def robot(address: tuple[str, int]) -> Iterator[Client]:
    """A client that goes on while others send what they like."""
    with Client(*address) as made:
        yield made


@pytest.fixture
def line(address: tuple[str, int]) -> Iterator[Any]:
    with connect("ws://{}:{}".format(*address), proxy=None, max_size=None) as made:
        made.recv()
        yield made


def right(**changes: Any) -> dict[Any, Any]:
    """A request that the policy takes, with some keys changed."""
    plain: dict[Any, Any] = {"observation/front": IMAGE, "observation/state": [0.5, -1.0]}
    return {**plain, "prompt": "pick up the cup", "seed": 0} | {
        key.replace("__", "/"): value for key, value in changes.items()
    }


def array(**changes: Any) -> dict[bytes, Any]:
    """An image as a client of its own may write it, with some entries changed."""
    found = {b"__ndarray__": True, b"data": IMAGE.tobytes(), b"dtype": "|u1"}
    found |= {b"shape": [40, 60, 3]}
    return found | {key.encode(): value for key, value in changes.items()}


def scalar(kind: Any, data: Any) -> dict[bytes, Any]:
    return {b"__npgeneric__": True, b"dtype": kind, b"data": data}


def named(head: bytes, more: bytes = b"") -> bytes:
    """A map with the key `x`, and a value that begins with these bytes."""
    return b"\x81\xa1x" + head + more


RAW: dict[str, bytes] = {
    "nothing": b"",
    "no msgpack": b"\xc1",
    "a number": b"\x01",
    "a list": b"\x93\x01\x02\x03",
    "text": b"\xa2hi",
    "null": b"\xc0",
    "two messages": b"\x80\x80",
    "lists, 100,000 deep": b"\x91" * 100_000 + b"\x01",
    "maps, 100,000 deep": b"\x81\xa1x" * 100_000 + b"\x01",
    "a list of 2^32": b"\xdd\xff\xff\xff\xff",
    "lists of 2^32 in lists": named(b"\xdd\xff\xff\xff\xff" * 500),
    "lists of 2^12 in lists": named(b"\xdc\x10\x00" * 900),
    "a map of 2^32": b"\xdf\xff\xff\xff\xff",
    "bytes, 2^32": named(b"\xc6\xff\xff\xff\xff"),
    "text of 2^32": named(b"\xdb\xff\xff\xff\xff"),
    "an extension of 2^32": named(b"\xc9\xff\xff\xff\xff\x05"),
    "an extension": named(b"\xd4\x05\x00"),
    "a time": named(b"\xd6\xff\x00\x00\x00\x00"),
    "a wrong time": named(b"\xd7\xff" + b"\xff" * 8),
    "bytes that are no UTF-8": named(b"\xa2\xff\xfe"),
    "a list as a key": b"\x81\x90\x01",
    "an array as a key": b"\x81" + msgpack.packb(array(), use_bin_type=True) + b"\x01",
    "a number as a key": b"\x81\x01\x01",
    "null as a key": b"\x81\xc0\x01",
    "a key twice": b"\x82\xa6prompt\xa1a\xa6prompt\xa1b",
    "many entries": msgpack.packb({str(n): [[0] * 4000] for n in range(20)}),
    "half a message": codec.pack(right())[:-7],
}

ARRAYS: dict[str, dict[bytes, Any]] = {
    "shape and bytes disagree": array(shape=[40, 60, 4]),
    "fewer bytes": array(data=b"12"),
    "no bytes": array(data=b""),
    "negative length": array(shape=[-40, -60, 3]),
    "a product beyond 64 bits": array(shape=[2**40, 2**40, 3]),
    "a length beyond 63 bits": array(shape=[2**63, 1, 3]),
    "no lengths": array(shape=[]),
    "100 axes": array(shape=[1] * 100),
    "a fraction as a length": array(shape=[40.5, 60, 3]),
    "true as a length": array(shape=[True, 60, 3]),
    "a shape that is a number": array(shape=7200),
    "a shape that is text": array(shape="40"),
    "data that is text": array(data="x" * 7200),
    "data that is a list": array(data=[0] * 100),
    "data that is an array": array(data=array()),
    "Python objects": array(dtype="|O"),
    "records": array(dtype="i4,i4"),
    "a record with names": array(dtype="{'names':['a'],'formats':['i4']}"),
    "no type of numpy's": array(dtype="float31"),
    "a type with parentheses": array(dtype="(2,3)f4"),
    "text of no length": array(dtype="<U0", data=b"", shape=[10**9]),
    "text that is no Unicode": array(dtype="<U1", data=b"\xff" * 28800),
    "a type that is a number": array(dtype=5),
    "a type of a million letters": array(dtype="f" * 60_000),
    "complex": array(dtype="<c8", shape=[900]),
    "floats": array(dtype="<f4", shape=[20, 30, 3]),
    "another order of colors": array(shape=[3, 40, 60]),
    "an image without pixels": array(data=b"", shape=[0, 60, 3]),
    "a lost key": {key: value for key, value in array().items() if key != b"shape"},
    "a scalar": scalar("<f4", 0.5),
    "a scalar that is text": scalar("<f4", "0.5"),
    "a scalar that is a list": scalar("<f4", [1, 2]),
    "a scalar beyond its type": scalar("|i1", 300),
    "a time": scalar("<M8[ns]", "tomorrow"),
}

FIELDS: dict[str, Any] = {
    "NaN in the state": {"observation__state": [1.0, float("nan")]},
    "infinity in the state": {"observation__state": [1.0, float("inf")]},
    "a state of text": {"observation__state": ["1", "2"]},
    "a state with a map": {"observation__state": [1, {}]},
    "a state that is null": {"observation__state": None},
    "a ragged state": {"observation__state": [[1], [1, 2]]},
    "a state, 100 deep": {"observation__state": [[[[0.0]] * 2] * 2] * 2},
    "a state of a million": {"observation__state": np.zeros(10**6, np.uint8)},
    "a state of numbers beyond float32": {"observation__state": [2**63, 1e300]},
    "a prompt of 10 MB": {"prompt": "x" * 10_000_000},
    "a prompt of 50 kB": {"prompt": "x" * 50_000},
    "a prompt with control characters": {"prompt": "pick \x1b]0;up\x07"},
    "a prompt with a zero": {"prompt": "pick\0up"},
    "a prompt that is bytes": {"prompt": b"pick up"},
    "a prompt that is a list": {"prompt": ["pick up"]},
    "an empty prompt": {"prompt": " \n"},
    "a negative seed": {"seed": -(2**63)},
    "a seed that is a fraction": {"seed": 0.5},
    "a seed that is true": {"seed": True},
    "a seed that is an array": {"seed": np.array([1, 2])},
    "a seed that is text": {"seed": "7" * 10_000},
    "a reset that is an array": {"reset": np.array([True, False])},
    "a reset that is text": {"reset": "no"},
    "a count that is text": {"request": "x" * 10_000},
    "a count that is an array": {"request": np.ones(3)},
    "a key of another policy": {"executed": np.zeros((8, 4), np.float32)},
    "5,000 keys": {f"key {n}": n for n in range(4_000)},
    "a key with control characters": {"\x1b[2J": 1},
    "a key of 60 kB": {"k" * 60_000: 1},
    "an image that is text": {"observation__front": "front.jpg"},
    "an image that is bytes": {"observation__front": b"\x89PNG"},
    "an image as lists": {"observation__front": [[[0, 0, 0]] * 8] * 8},
    "an image of 16 bits": {"observation__front": np.zeros((8, 8, 3), np.uint16)},
    "an image of 34 million pixels": {"observation__front": np.zeros((1, 2**25 + 1, 3), np.uint8)},
    "an image of five axes": {"observation__front": np.zeros((1, 1, 8, 8, 3), np.uint8)},
}

MESSAGES = (
    RAW
    | {f"array: {name}": msgpack.packb(right(observation__front=value), default=codec._encode)
       for name, value in ARRAYS.items()}
    | {name: msgpack.packb(right(**value), default=codec._encode)
       for name, value in FIELDS.items()}
)  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_a_wrong_message_is_answered_in_text_and_the_connection_goes_on(
    name: str, line: Any, robot: Client
) -> None:
    line.send(MESSAGES[name])
    answer = line.recv(timeout=60)
    assert isinstance(answer, str) and 10 < len(answer) < 1500, answer
    assert "a bug" not in answer and "Traceback" not in answer
    assert answer == printable(answer)
    line.send(codec.pack(right()))
    assert isinstance(line.recv(timeout=60), bytes)
    assert robot.infer(right())["actions"].shape == (8, 4)


def test_messages_name_the_fault(line: Any) -> None:
    for name, message in {
        "lists, 100,000 deep": "nested too deeply",
        "a list of 2^32": "4294967295 entries of a list at once; expected at most 4096",
        "a key twice": "a map with the key 'prompt' twice",
        "an extension": "the extension type 5 of msgpack",
        "array: negative length": "an array of the shape a list of 3",
        "array: Python objects": "an array of |O",
        "array: a scalar that is text": "a float32 that is '0.5'",
        "a prompt of 10 MB": "10000000 bytes of text at once; expected at most 65536",
        "a prompt of 50 kB": "'prompt' has 50000 characters; expected at most 4096",
        "a prompt with control characters": "the control character '\\x1b' at place 5",
        "a negative seed": "from 0 to 18446744073709551615",
        "5,000 keys": "'key 7' and 3992 more",
        "a reset that is text": "'reset' is 'no'",
        "an image of 34 million pixels": "33,554,433 pixels; expected at most 33,554,432",
    }.items():
        line.send(MESSAGES[name])
        assert message in line.recv(timeout=60)


def test_numpy_scalars_are_accepted_as_numbers(robot: Client) -> None:
    assert robot.infer(right(seed=2**64 - 1))["actions"].size
    plain = robot.infer(right(seed=3))["actions"]
    state = [np.float32(0.5), np.int8(-1)]
    found = robot.infer(right(seed=np.int64(3), observation__state=state, reset=np.bool_(True)))
    assert np.array_equal(found["actions"], plain)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\x81\x82\0\0\0\0\xff\xfe"], 1007),  # text that is no UTF-8
        ([b"\xc2\x81\0\0\0\0x"], 1002),  # compressed, which was not agreed on
        ([b"\x82\xff" + struct.pack("!Q", 2**40) + b"\0\0\0\0"], 1009),
        ([b"\x82\xff" + struct.pack("!Q", codec.LIMIT + 1) + b"\0\0\0\0"], 1009),
        ([b"\x83\x80\0\0\0\0"], 1002),  # a kind of frame that does not exist
        ([b"\x82\x01x"], 1002),  # not masked
        ([b"\x80\x80\0\0\0\0"], 1002),  # continues nothing
        ([b"\x02\x80\0\0\0\0"] + [b"\x00\x80\0\0\0\0"] * 5000, 1009),  # too many fragments
    ],
    ids=[
        "utf-8",
        "compressed",
        "a terabyte",
        "one byte more",
        "opcode",
        "mask",
        "continued",
        "fragments",
    ],
)
def test_what_the_protocol_forbids_ends_the_connection_with_its_code(
    frames: list[bytes], code: int, line: Any, robot: Client
) -> None:
    line.socket.sendall(b"".join(frames))
    with pytest.raises(ConnectionClosed) as found:
        line.recv(timeout=60)
    assert found.value.rcvd is not None and found.value.rcvd.code == code
    assert robot.infer(right())["actions"].shape == (8, 4)


def test_a_client_shows_no_control_characters_of_a_server() -> None:
    class Line:
        def recv(self) -> str:
            return "\x1b[2J" * 9999

    client = object.__new__(Client)
    client.address, vars(client)["_line"] = "ws://x", Line()
    with pytest.raises(WamkitError) as found:
        client._receive()
    assert "\x1b" not in str(found.value) and len(str(found.value)) < 20_000


def test_values_are_quoted_shortly() -> None:
    assert quote("x" * 100) == f"{'x' * 60!r}..." and quote(b"\x00") == "b'\\x00'"
    assert quote([1, 2]) == "a list of 2" and quote({}) == "a dict of 0"
    assert quote(np.zeros((2, 3))) == "an array float64 [2, 3]" and quote(True) == "True"
    assert quote(np.float32(1)) == "a float32"
    assert truncate_text("a\x1b\u202eb") == "a\\x1b\\u202eb" and truncate_text("杯子 é") == "杯子 é"
    assert truncate_text("x" * 3000, 10) == f"{'x' * 10}... (3000 characters)"
