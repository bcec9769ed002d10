"""What tests of the server share: a policy, raw connections, halves of frames, and patience."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from websockets.sync.client import connect

import wamkit
from wamkit.policy.policy import Policy

SEEN = {"observation/front": np.zeros((32, 32, 3), np.uint8), "prompt": "pick up", "seed": 0}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@cache
def policy() -> Policy:
    return wamkit.build("examples/toy.toml", tiny=True)


def line_to(address: tuple[str, int], session: str = "") -> Any:
    query = f"/?session={session}" if session else ""
    return connect("ws://{}:{}{}".format(*address, query), proxy=None, max_size=None)


def raw(address: tuple[str, int], sent: bytes) -> socket.socket:
    """A connection that has sent bytes."""
    made = socket.create_connection(address)
    made.sendall(sent)
    return made


def half(size: int) -> bytes:
    """A frame of which the last byte is not there yet."""
    return b"\x82\xff" + struct.pack("!Q", size + 1) + b"\0\0\0\0" + bytes(size)


def until(done: Callable[[], bool]) -> None:
    for _ in range(6000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it never came to that")


def read_all(sock: socket.socket) -> bytes:
    """Everything that a server sent before it ended the connection."""
    sock.settimeout(60)
    found = b""
    while True:
        try:
            more = sock.recv(2**16)
        except ConnectionResetError:
            return found
        if not more:
            return found
        found += more
