"""Many clients, and clients that send halves or read nothing: a robot next to them is served."""

from __future__ import annotations

import logging
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from serving import SEEN, UPGRADE, half, line_to, policy, raw, read_all, until
from websockets.exceptions import ConnectionClosed

from wamkit.errors import WamkitError
from wamkit.serve.client import Client
from wamkit.serve.codec import pack
from wamkit.serve.connection import UNREAD
from wamkit.serve.limits import Limits
from wamkit.serve.server import Server, address_of, bind, run_in_thread


@contextmanager
def served(**limits: int) -> Iterator[tuple[Server, tuple[str, int]]]:
    listener = bind("127.0.0.1", 0)
    server = Server(policy(), "toy", limits=Limits(**limits))
    with run_in_thread(server, listener):
        yield server, address_of(listener)


def test_silent_connections_keep_no_robot_out() -> None:
    with served(clients=4) as (server, address):
        with Client(*address) as robot:
            robot.infer(SEEN)
            silent = [raw(address, UPGRADE) for _ in range(12)]
            until(lambda: len(server.admission.clients) == 4)
            with Client(*address) as late:
                assert late.infer(SEEN)["actions"].shape == (8, 4)
                assert robot.infer(SEEN)["actions"].shape == (8, 4)
                assert len(server.admission.clients) <= 4
            sent = read_all(silent[0])  # the oldest
            assert struct.pack("!H", 1013) + b"silent since it connected" in sent
        for sock in silent:
            sock.close()


def test_a_robot_that_had_to_make_room_before_its_first_request_comes_back() -> None:
    with served(clients=1) as (_, address), Client(*address) as early:
        with Client(*address) as late:
            late.infer(SEEN)
        assert early.infer(SEEN)["actions"].shape == (8, 4)


def test_where_every_client_is_a_robot_another_one_is_refused_with_a_message(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served(clients=2) as (_, address), Client(*address) as one, Client(*address) as two:
        for client in (one, two):
            client.infer(SEEN)
        with pytest.raises(WamkitError, match=r"refuses this client: HTTP 503: .* 2 clients"):
            Client(*address)
        assert "is refused: the server has 2 clients and takes no more" in caplog.text
        for client in (one, two):
            client.infer(SEEN)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open("http://{}:{}/healthz".format(*address)) as answer:
            assert answer.status == 200


def test_connections_without_a_handshake_keep_no_robot_out() -> None:
    with served(handshakes=4) as (server, address):
        silent = [raw(address, b"GET / HTTP/1.1\r\n") for _ in range(20)]
        until(lambda: len(server.admission.handshakes) == 4)
        with Client(*address) as robot:
            assert robot.infer(SEEN)["actions"].shape == (8, 4)
        assert read_all(silent[0]) == b""
        for sock in silent:
            sock.close()
        until(lambda: not server.admission.handshakes)


def test_of_half_sent_messages_those_that_hold_most_give_way(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served(buffer=2**22) as (server, address), Client(*address) as robot:
        halves = [raw(address, UPGRADE + half(200_000)) for _ in range(8)]
        until(lambda: server.admission.bytes_held >= 1_600_000)
        large = raw(address, UPGRADE)
        with suppress(OSError):  # ended while it sends, which is what is wanted
            large.sendall(half(2**23))
        until(lambda: len(server.admission.clients) == 9)
        assert robot.infer(SEEN)["actions"].shape == (8, 4)
        assert 1_600_000 <= server.admission.bytes_held <= 2**22
        for sock in halves:
            sock.sendall(b"\0")  # what was half there is whole, and answered
        until(lambda: server.admission.bytes_held < 100_000)
        assert "this client's the most" in caplog.text
        for sock in halves:
            sock.close()
    assert server.admission.bytes_held == 0


def test_fragments_and_messages_that_wait_are_counted_too() -> None:
    with served(buffer=2**20) as (server, address), line_to(address) as line:
        line.recv()
        fragment = b"\x00\xfe\xff\xff\0\0\0\0" + bytes(65_535)
        line.socket.sendall(b"\x02" + fragment[1:] + fragment * 7)
        until(lambda: 500_000 < server.admission.bytes_held < 600_000)
        line.socket.sendall(fragment * 10)
        with pytest.raises(ConnectionClosed) as found:
            line.recv(timeout=60)
        assert found.value.rcvd is not None and found.value.rcvd.code == 1013
        until(lambda: server.admission.bytes_held == 0)


def test_a_client_that_sends_faster_than_it_is_answered_is_read_no_further() -> None:
    with served() as (server, address), Client(*address) as robot:
        greedy = raw(address, UPGRADE)
        greedy.setblocking(False)
        frame, sent = half(10**6) + b"\0", 0
        for _ in range(100):
            try:
                sent += greedy.send(frame[sent % len(frame) :])
            except BlockingIOError:
                break
        robot.infer(SEEN)
        assert server.admission.bytes_held < 10**7
        greedy.close()


@pytest.mark.parametrize("frame", [b"\x89\xfd\0\0\0\0" + bytes(125), b"\x8a\x80\0\0\0\0"])
def test_a_flood_of_pings_or_pongs_ends_its_connection(frame: bytes) -> None:
    with served() as (server, address), Client(*address) as robot:
        flood = raw(address, UPGRADE)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                flood.sendall(frame * 1000)
        until(lambda: len(server.admission.clients) == 1)
        assert robot.infer(SEEN)["actions"].shape == (8, 4)
        flood.close()


def test_a_client_that_does_not_read_holds_little_memory(monkeypatch: Any) -> None:
    monkeypatch.setattr("wamkit.serve.connection.BURST", 10**9)
    with served() as (server, address), Client(*address) as robot:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(address)
        deaf.sendall(UPGRADE)
        until(lambda: len(server.admission.clients) == 2)
        with pytest.raises(ConnectionError):
            for _ in range(1000):
                deaf.sendall((b"\x89\xfd\0\0\0\0" + bytes(125)) * 1000)
                for client in list(server.admission.clients):
                    assert client.transport.get_write_buffer_size() < 4 * UNREAD
        until(lambda: len(server.admission.clients) == 1)
        assert robot.infer(SEEN)["actions"].shape == (8, 4)
        deaf.close()


def test_nothing_is_computed_for_a_client_that_is_gone(monkeypatch: Any) -> None:
    going, free, seeds = threading.Event(), threading.Event(), list[int]()
    plain = policy().sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        seeds.append(kwargs["seed"])
        going.set()
        assert free.wait(60)
        return plain(*args, **kwargs)

    monkeypatch.setattr(policy(), "sample", sample)
    with served() as (server, address), line_to(address) as one:
        one.recv()
        one.send(pack({**SEEN, "seed": 1}))
        assert going.wait(60)
        gone = line_to(address)
        with gone:
            gone.recv()
            gone.send(pack({**SEEN, "seed": 2}))
            until(lambda: any(c.pending and not c.answering for c in server.admission.clients))
        until(lambda: len(server.admission.clients) == 1)
        free.set()
        assert isinstance(one.recv(timeout=60), bytes)
        one.send(pack({**SEEN, "seed": 3}))
        assert isinstance(one.recv(timeout=60), bytes)
    assert seeds == [1, 3]


def test_out_of_memory_is_no_bug(monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise MemoryError("no more")

    with served() as (_, address), Client(*address) as client:
        with monkeypatch.context() as patch:
            patch.setattr(policy(), "sample", full)
            with pytest.raises(WamkitError, match="ran out of memory for this request"):
                client.infer(SEEN)
        with Client(*address) as another:
            assert another.infer(SEEN)["actions"].shape == (8, 4)


@pytest.mark.parametrize("option", ["--max-clients", "--max-buffer"])
def test_limits_that_are_none_are_refused(option: str, wamkit: Any) -> None:
    for value in ("0", "-1", "nan"):
        code, _, err = wamkit("serve", "examples/toy.toml", option, value)
        assert code == 2 and option in err
