"""A server during shutdown: who gets an answer, who an error, and nobody is waited for."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from serving import SEEN, UPGRADE, half, line_to, policy, raw, read_all, until
from websockets.exceptions import ConnectionClosed, InvalidStatus

from wamkit.errors import WamkitError
from wamkit.serve.client import Client
from wamkit.serve.codec import pack, unpack
from wamkit.serve.server import Server, address_of, bind, run_in_thread

TOY = "examples/toy.toml"
SLOW = """
import signal, sys, time
import wamkit.policy.policy
plain = wamkit.policy.policy.Policy.sample
def sample(*args, **kwargs):
    if kwargs["seed"] != 0:  # that of warming up
        print("computing", flush=True)
        time.sleep(float(sys.argv[-1]))
    return plain(*args, **kwargs)
wamkit.policy.policy.Policy.sample = sample
from wamkit.cli import app
app(sys.argv[1:-1], prog_name="wamkit")
"""


def test_the_running_request_is_answered_and_all_others_get_a_close_frame(
    monkeypatch: Any,
) -> None:
    going, free = threading.Event(), threading.Event()
    plain = policy().sample

    def sample(*args: Any, **kwargs: Any) -> Any:
        going.set()
        assert free.wait(60)
        return plain(*args, **kwargs)

    monkeypatch.setattr(policy(), "sample", sample)
    listener = bind("127.0.0.1", 0)
    address, server = address_of(listener), Server(policy(), "toy")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    found: dict[str, Any] = {}

    def probe(path: str) -> int:
        try:
            with opener.open("http://{}:{}{}".format(*address, path)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def watch() -> None:
        """What can be seen from outside while the server ends."""
        until(lambda: server.admission.draining)
        found["probes"] = (probe("/healthz"), probe("/readyz"))
        try:
            line_to(address)
        except InvalidStatus as error:
            found["late"] = error.response.status_code
        free.set()

    with run_in_thread(server, listener):
        assert (probe("/healthz"), probe("/readyz")) == (200, 200)
        lines = [line_to(address) for _ in range(5)]
        for line in lines:
            line.recv()
        lines[0].send(pack(SEEN))
        assert going.wait(60)
        for line in lines[1:4]:  # the fifth is silent
            line.send(pack(SEEN))
        until(lambda: sum(client.pending for client in server.admission.clients) == 4)
        stuck = [raw(address, UPGRADE + half(1000)), raw(address, b"GET / HT")]
        deaf = socket.create_connection(address)
        deaf.sendall(UPGRADE + half(1000))
        until(lambda: len(server.admission.clients) == 7)
        threading.Thread(target=watch, daemon=True).start()
    assert found == {"probes": (200, 503), "late": 503}
    assert unpack(lines[0].recv())["actions"].shape == (8, 4)
    for line in lines[1:4]:
        assert line.recv() == "the server is shutting down, and has not acted on this request"
    for line in lines:
        with pytest.raises(ConnectionClosed) as end:
            line.recv()
        assert end.value.rcvd is not None
        assert (end.value.rcvd.code, end.value.rcvd.reason) == (1001, "the server is shutting down")
    assert struct.pack("!H", 1001) + b"the server is shutting down" in read_all(stuck[0])
    assert read_all(stuck[1]) == b""
    deaf.close()


def test_a_client_of_wamkit_states_why_it_has_no_answer() -> None:
    listener = bind("127.0.0.1", 0)
    with run_in_thread(Server(policy()), listener):
        client = Client(*address_of(listener))
    with pytest.raises(WamkitError, match="the server is shutting down"):
        client.infer(SEEN)


def test_a_server_that_cannot_begin_reports_it() -> None:
    closed = bind("127.0.0.1", 0)
    closed.close()
    with (
        pytest.raises(OSError, match="Bad file descriptor"),
        run_in_thread(Server(policy()), closed),
    ):
        raise AssertionError("it began")


@contextmanager
def process(seconds: float) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    """`wamkit serve`, whose chunks take so many seconds, and its address."""
    args = ["serve", TOY, "--tiny", "--port", "0", str(seconds)]
    run = subprocess.Popen(
        [sys.executable, "-c", SLOW, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    try:
        for line in run.stdout:
            if ready := re.search(r"ready at ws://127.0.0.1:(\d+)", line):
                break
        else:
            raise AssertionError(run.communicate()[1])
        yield run, ("127.0.0.1", int(ready.group(1)))
    finally:
        run.kill()
        run.communicate()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_process_in_order(number: signal.Signals, status: int) -> None:
    with process(1) as (run, address):
        assert run.stdout is not None
        with line_to(address) as one, line_to(address) as two:
            for line in (one, two):
                line.recv()
            one.send(pack({**SEEN, "seed": 1}))
            assert any("computing" in line for line in run.stdout)
            two.send(pack({**SEEN, "seed": 1}))
            stuck = raw(address, UPGRADE + half(1000))
            run.send_signal(number)
            assert isinstance(one.recv(timeout=60), bytes)
            for line in (one, two):
                with pytest.raises(ConnectionClosed) as end:
                    while True:
                        line.recv(timeout=60)
                assert end.value.rcvd is not None and end.value.rcvd.code == 1001
        _, err = run.communicate(timeout=60)
        assert run.returncode == status and "Traceback" not in err
        assert "shutting down: the running request is finished" in err
        stuck.close()


def test_a_second_signal_does_not_wait_for_the_chunk() -> None:
    with process(1000) as (run, address):
        assert run.stdout is not None and run.stderr is not None
        with line_to(address) as line:
            line.recv()
            line.send(pack({**SEEN, "seed": 1}))
            assert any("computing" in message for message in run.stdout)
            run.send_signal(signal.SIGTERM)
            assert any("another signal ends it at once" in message for message in run.stderr)
            time.sleep(0.2)  # at the same moment it would count as the first one
            run.send_signal(signal.SIGTERM)
            assert run.wait(60) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_policy_warms_up_waits_for_nothing(number: signal.Signals) -> None:
    args = ["serve", TOY, "--tiny", "--port", "0", "1000"]
    program = SLOW.replace('kwargs["seed"] != 0', "True")
    run = subprocess.Popen(
        [sys.executable, "-c", program, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert any("computing" in line for line in run.stdout)
    run.send_signal(number)
    _, err = run.communicate(timeout=60)
    assert run.returncode == 128 + number and "Traceback" not in err
