"""Clients whose connection breaks: which client continues which session, and the replies."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
from serving import line_to, until

import wamkit
from wamkit.errors import WamkitError
from wamkit.policy.policy import Policy
from wamkit.serve.client import Client
from wamkit.serve.codec import pack, unpack
from wamkit.serve.server import Server, address_of, bind, run_in_thread
from wamkit.serve.sessions import SessionTimeouts
from wamkit.testing.fixtures import spec_with, with_overrides
from wamkit.testing.parity import same_values


@cache
def remembering() -> Policy:
    """A policy that goes through an episode block by block."""
    names = {"backbone": "toy", "action_head": "mot", "paradigm": "autoregressive"}
    return wamkit.build(with_overrides(spec_with(**names)))


@contextmanager
def served(**patience: Any) -> Iterator[tuple[Server, tuple[str, int]]]:
    listener = bind("127.0.0.1", 0)
    server = Server(remembering(), patience=SessionTimeouts(**patience))
    with run_in_thread(server, listener):
        yield server, address_of(listener)


def seen(count: int, seed: int = 0, **more: Any) -> dict[str, Any]:
    spec, rng = remembering().spec, np.random.default_rng(seed)
    shape = (count, 24, 32, 3) if count > 1 else (24, 32, 3)
    found: dict[str, Any] = {
        f"observation/{view.name}": rng.integers(0, 256, shape, dtype=np.uint8)
        for view in spec.cameras.views
    }
    if spec.state.size:
        found["observation/state"] = [0.0] * spec.state.size
    return {**found, "prompt": "pick up", "seed": 0, **more}


FIRST = 1 if remembering().spec.video.num_observed == 1 else remembering().spec.video.num_observed
NEXT = remembering().spec.video.num_frames - remembering().spec.video.num_observed


def cut(client: Client) -> None:
    """Break a connection as a robot does that loses its network."""
    client._line.socket.shutdown(socket.SHUT_RDWR)


def hello(line: Any) -> dict[str, Any]:
    found: dict[str, Any] = unpack(line.recv())["session"]
    return found


def test_an_episode_goes_on_over_a_connection_that_broke(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served() as (_, address), Client(*address) as one, Client(*address) as two:
        name = one.session["id"]
        for client in (one, two):
            client.infer(seen(FIRST, 1))
        cut(one)
        replies = [client.infer(seen(NEXT, 2)) for client in (one, two)]
        assert one.session == {"id": name, "resumed": True, "timeout": 600}
        same_values(replies[0]["actions"], replies[1]["actions"])
    for message in (
        "connected: session",
        "vanished without a close frame",
        "is back",
        "kept for 600 s",
    ):
        assert message in caplog.text
    assert name not in caplog.text and name[:6] in caplog.text


def test_a_request_that_is_sent_again_is_not_acted_on_twice() -> None:
    with served() as (server, address):
        line = line_to(address)
        name = hello(line)["id"]
        request = pack(seen(FIRST, 1, request=1))
        line.send(request)
        line.recv()
        line.socket.shutdown(socket.SHUT_RDWR)
        with line_to(address, name) as again:
            assert hello(again)["resumed"]
            again.send(request)
            assert unpack(again.recv())["num_images"] == NEXT
            assert server.sessions.held[name].session.num_images == NEXT
            for number, message in ((0, "came after request 1"), ("x", "expected a count")):
                again.send(pack(seen(NEXT, 2, request=number)))
                assert message in str(again.recv())
            again.send(pack(seen(NEXT, 2, request=2)))
            assert unpack(again.recv())["num_images"] == NEXT


def test_a_client_that_comes_back_while_it_is_answered_gets_that_answer() -> None:
    with served() as (_, address):
        line = line_to(address)
        name = hello(line)["id"]
        request = pack(seen(FIRST, 1, request=1))
        line.send(request)
        line.socket.shutdown(socket.SHUT_RDWR)  # whether it is at work already, or not yet
        with line_to(address, name) as again:
            hello(again)
            again.send(request)
            assert unpack(again.recv())["num_images"] == NEXT


def test_the_newest_client_that_presents_a_session_has_it(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served() as (_, address), Client(*address) as one:
        one.infer(seen(FIRST, 1))
        with line_to(address, one.session["id"]) as two:
            assert hello(two)["resumed"]
            with pytest.raises(WamkitError, match="taken over by another client"):
                one.infer(seen(NEXT, 2))
            two.send(pack(seen(NEXT, 2)))
            assert unpack(two.recv())["num_images"] == NEXT
    assert "takes it from" in caplog.text


def test_a_session_ends_with_goodbye_and_after_its_time(caplog: Any) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served(session_timeout=0.05) as (server, address):
        with Client(*address) as polite:
            assert list(server.sessions.held) == [polite.session["id"]]
        until(lambda: not server.sessions.held)
        assert "closed the connection (code 1000)" in caplog.text
        client = Client(*address)
        client.infer(seen(FIRST, 1))
        cut(client)
        until(lambda: "no client reconnected within 0.05 s" in caplog.text)
        with pytest.raises(WamkitError, match="no longer has this session"):
            client.infer(seen(NEXT, 2))
        with Client(*address) as new:
            assert new.session["resumed"] is False


def test_an_episode_that_begins_anew_needs_no_session_of_before() -> None:
    with served(kept=0) as (server, address), Client(*address) as client:
        first = client.infer(seen(FIRST, 1))
        cut(client)
        until(lambda: not server.sessions.held)
        client.reset()
        same_values(client.infer(seen(FIRST, 1))["actions"], first["actions"])


def test_no_more_sessions_wait_than_are_wished_for() -> None:
    with served(kept=2) as (server, address):
        clients = []
        for _ in range(4):
            clients.append(Client(*address))
            cut(clients[-1])
            until(lambda: all(held.owner is None for held in server.sessions.held.values()))
        assert list(server.sessions.held) == [client.session["id"] for client in clients[-2:]]


def test_a_client_that_answers_no_ping_is_dropped_with_a_line_and_can_come_back(
    caplog: Any,
) -> None:
    caplog.set_level(logging.INFO, "wamkit.serve")
    with served(ping_interval=0.05, ping_timeout=0.05) as (_, address):
        with socket.create_connection(address) as raw:  # speaks to begin with, then stands still
            raw.sendall(
                b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
                b"\x82\xfe"  # the beginning of a message
            )
            until(lambda: "answered no ping (keepalive timeout) and was dropped" in caplog.text)
        assert "is kept for 600 s" in caplog.text


def test_clients_that_know_of_no_session_are_served_as_ever() -> None:
    with served() as (_, address), line_to(address, "no-such-session") as line:
        assert hello(line)["resumed"] is False
        line.send(pack(seen(FIRST, 1)))
        assert unpack(line.recv())["num_images"] == NEXT


@pytest.mark.parametrize("option", ["--ping-interval", "--ping-timeout", "--session-timeout"])
def test_times_that_are_no_times_are_refused(option: str, wamkit: Any) -> None:
    for value in ("nan", "inf", "-1"):
        code, _, err = wamkit("serve", "examples/toy.toml", option, value)
        assert code == 2 and option in err
