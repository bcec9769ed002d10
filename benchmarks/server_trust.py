"""Shutdown of a server, and clients that misbehave; figures for RESULTS.md.

    OMP_NUM_THREADS=1 python benchmarks/server_trust.py [--only NAME] [--steps COUNT]

Runs `wamkit serve` with the smallest policy in a process of its own, and its clients in this one.
Takes two to five minutes and 2 GB on a laptop; needs wamkit[serve] and Linux, for peak memory.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from wamkit.serve.client import Client
from wamkit.serve.codec import pack

TOY = Path(__file__).parent.parent / "examples" / "toy.toml"
SEEN = {"observation/front": np.zeros((480, 640, 3), np.uint8), "prompt": "pick up the cup"}
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
HZ = 5
"""Requests a second of the robot that is measured."""


class Served:
    """`wamkit serve` in a process of its own, until the end of the block."""

    def __init__(self, steps: int = 10, *args: str) -> None:
        command = [sys.executable, "-m", "wamkit", "serve", str(TOY), "--tiny", "--port", "0"]
        command += ["--set", f"schedules.action.steps={steps}", *args]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        self.log: list[str] = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()  # type: ignore[arg-type]
        assert self.process.stdout is not None
        found = (re.search(r"ready at ws://[^:]+:(\d+)", line) for line in self.process.stdout)
        self.port = int(next(match for match in found if match).group(1))

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def peak_mib(self) -> int:
        """The most memory that the process had, in MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s+(\d+) kB", text)[0]) // 1024

    def end(self, number: signal.Signals) -> float:
        """Send a signal and wait for the end; the time of the end, as `time.monotonic` has it."""
        self.process.send_signal(number)
        self.process.wait(120)
        return time.monotonic()

    def raw(self, request: bytes = UPGRADE) -> socket.socket:
        """A connection that has sent bytes, and reads nothing."""
        made = socket.create_connection(("127.0.0.1", self.port))
        made.sendall(request)
        return made


def ask(port: int, result: dict[str, Any]) -> None:
    """Ask once; how it ended, in `result`."""
    with connect(f"ws://127.0.0.1:{port}", compression=None, max_size=None, proxy=None) as line:
        line.recv()
        try:
            line.send(pack(SEEN))
            answer = line.recv()
            result["at"] = time.monotonic()
            result["answer"] = "error" if isinstance(answer, str) else "actions"
            line.recv()
        except ConnectionClosed as error:
            result["code"] = None if error.rcvd is None else error.rcvd.code


def ended(number: signal.Signals, clients: int, steps: int, silent: int = 0) -> dict[str, Any]:
    """A signal while one request is computed and the others wait."""
    with Served(steps) as served:
        with Client(port=served.port) as warm:
            begun = time.monotonic()
            warm.infer(SEEN)
            chunk = time.monotonic() - begun
        stuck = [served.raw(UPGRADE + half(2**20)) for _ in range(silent)]
        results: list[dict[str, Any]] = [{} for _ in range(clients)]
        threads = [
            threading.Thread(target=ask, args=(served.port, r), daemon=True) for r in results
        ]
        for thread in threads:
            thread.start()
        time.sleep(1.5 * chunk)
        sent = time.monotonic()
        end = served.end(number)
        for thread in threads:
            thread.join(10)
        answered = [r for r in results if r.get("answer") == "actions"]
        last = max([sent, *(r["at"] for r in answered)])
        return {
            "clients": clients + len(stuck),
            "chunk, s": round(chunk, 2),
            "answered": len(answered),
            "refused with an error": sum(r.get("answer") == "error" for r in results),
            "close frames 1001": sum(r.get("code") == 1001 for r in results),
            "exit after the signal, s": round(end - sent, 2),
            "exit after the last answer, s": round(end - last, 2),
            "status": served.process.returncode,
        }


def half(size: int, sent: int | None = None) -> bytes:
    """The first `sent` bytes, or half, of a binary frame of `size` bytes."""
    head = b"\x82\xff" + struct.pack("!Q", size) + b"\0\0\0\0"
    return head + bytes(size // 2 if sent is None else sent)


class Robot(threading.Thread):
    """A client that asks at control rate, until it is stopped; latencies in milliseconds."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.times, self.faults, self.going = port, list[float](), list[str](), True

    def run(self) -> None:
        """Ask every 1 / HZ seconds."""
        with Client(port=self.port) as policy:
            while self.going:
                begun = time.monotonic()
                try:
                    policy.infer(SEEN)
                except Exception as error:  # it is what is counted
                    self.faults.append(str(error))
                self.times.append(1000 * (time.monotonic() - begun))
                time.sleep(max(0.0, 1 / HZ - (time.monotonic() - begun)))

    def figures(self, seconds: float) -> dict[str, Any]:
        """Let it go on for a while, and say what it met."""
        time.sleep(seconds)
        self.going = False
        self.join(60)
        times = np.array(self.times) if self.times else np.array([np.nan])
        return {
            "requests": len(self.times),
            "failed": len(self.faults),
            "p50, ms": round(float(np.percentile(times, 50))),
            "p99, ms": round(float(np.percentile(times, 99))),
        }


def latency_under_load(
    disturb: Callable[[Served], list[Any]], *args: str, first: bool = False
) -> Any:
    """A robot at control rate among other clients; `first` says who connects first."""
    with Served(10, *args) as served:
        if first:
            robot = Robot(served.port)
            robot.start()
            time.sleep(0.5)
        others = disturb(served)
        if not first:
            robot = Robot(served.port)
            robot.start()
        found = {"others": len(others), **robot.figures(10), "peak, MiB": served.peak_mib}
        begun = time.monotonic()
        return found | {"exit, s": round(served.end(signal.SIGTERM) - begun, 2)}


def forever(act: Callable[[], None]) -> threading.Thread:
    """A thread that does something over and over until the connection breaks."""

    def run() -> None:
        try:
            while True:
                act()
        except (OSError, WebSocketException):
            return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def halves(served: Served) -> list[Any]:
    """64 clients that send half of 100 MB each, at the same time."""

    def send() -> None:
        line = served.raw()
        line.sendall(half(100_000_000, 50_000_000))
        time.sleep(60)

    return [forever(send) for _ in range(64)]


def abusers(served: Served) -> list[Any]:
    """Clients that send garbage, pings that nobody reads the answers of, and small fragments."""

    def garbage() -> None:
        with connect(f"ws://127.0.0.1:{served.port}", proxy=None, max_size=None) as line:
            for message in (b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", b"\x80", "text"):
                line.send(message)
                time.sleep(0.05)

    def flood(frame: bytes) -> Callable[[], None]:
        def send() -> None:
            line = served.raw()
            while True:
                line.sendall(frame * 1000)

        return send

    ping = b"\x89\xfd\0\0\0\0" + bytes(125)
    fragments = flood(b"\x00\x80\0\0\0\0")
    return [forever(garbage) for _ in range(4)] + [forever(flood(ping)), forever(fragments)]


def crowd() -> dict[str, Any]:
    """500 requests of 50 clients next to hung and abusive ones."""
    with Served(10) as served:
        others = [served.raw() for _ in range(8)] + [served.raw(b"GET /") for _ in range(8)]
        others += abusers(served)
        found: list[int] = []

        def robot() -> None:
            with Client(port=served.port, timeout=60) as policy:
                found.extend(policy.infer(SEEN)["actions"].shape[0] for _ in range(10))

        threads = [threading.Thread(target=robot, daemon=True) for _ in range(50)]
        begun = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(300)
        seconds = time.monotonic() - begun
        return {
            "others": len(others),
            "requests": 500,
            "answered": len(found),
            "seconds": round(seconds, 1),
            "peak, MiB": served.peak_mib,
        }


def main() -> None:
    """Print what each scenario found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="a part of a scenario's name")
    parser.add_argument("--steps", type=int, default=150, help="steps of a long chunk")
    options = parser.parse_args()
    long = options.steps
    scenarios: dict[str, Callable[[], Any]] = {
        "SIGTERM, 20 clients wait": lambda: ended(signal.SIGTERM, 20, long),
        "SIGINT, 50 clients wait": lambda: ended(signal.SIGINT, 50, long),
        "SIGTERM, 4 wait and 12 have half a message here": lambda: ended(
            signal.SIGTERM, 4, long, silent=12
        ),
        "robot alone": lambda: latency_under_load(lambda served: []),
        "robot, then 64 silent websockets": lambda: latency_under_load(
            lambda served: [served.raw() for _ in range(64)], first=True
        ),
        "64 silent websockets, then robot": lambda: latency_under_load(
            lambda served: [served.raw() for _ in range(64)]
        ),
        "64 silent sockets without a handshake, then robot": lambda: latency_under_load(
            lambda served: [served.raw(b"GET / HTTP/1.1\r\n") for _ in range(64)]
        ),
        "robot and 64 x 50 MB half sent, --max-buffer 256": lambda: latency_under_load(
            halves, "--max-buffer", "256", first=True
        ),
        "robot and floods of garbage, pings, fragments": lambda: latency_under_load(
            abusers, first=True
        ),
        "500 requests of 50 clients, hung and abusive ones": crowd,
    }
    for name, scenario in scenarios.items():
        if options.only is None or options.only in name:
            try:
                found = scenario()
            except Exception as error:  # one that fails leaves the others their turn
                found = f"failed: {type(error).__name__}: {error}"
            print(f"{name}: {found}", flush=True)


if __name__ == "__main__":
    main()
