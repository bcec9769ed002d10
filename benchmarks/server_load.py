"""A server under load: what is lost, how long others wait, what batches gain, whether memory grows.

    OMP_NUM_THREADS=1 python benchmarks/server_load.py [--only NAME] [--requests COUNT]

Runs `wamkit serve` with the smallest policy in a process of its own, and clients in this one. Three
scenarios: 50 clients of 20 requests next to one that hangs in the middle of a message, one that
sends garbage and one that sends 128 MiB; 8 clients with batches and one after the other, in turns;
and memory over 2,000 requests. Takes a few minutes on two cores; needs wamkit[serve] and Linux.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from server_trust import SEEN, UPGRADE, Served, half
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

from wamkit.serve.client import Client
from wamkit.serve.codec import pack

SMALL = {"observation/front": np.zeros((32, 32, 3), np.uint8), "prompt": "pick up the cup"}
MIB = 2**20


def clients(port: int, count: int, requests: int, seen: dict[str, Any] = SEEN) -> dict[str, Any]:
    """Requests of several clients at once: how many got actions, and how long each took."""
    times: list[list[float]] = [[] for _ in range(count)]
    faults: list[str] = []
    together = threading.Barrier(count + 1)

    def robot(row: list[float], index: int) -> None:
        with Client(port=port, timeout=120) as policy:
            policy.infer({**seen, "seed": 0})
            together.wait()
            for number in range(requests):
                begun = time.monotonic()
                try:
                    policy.infer({**seen, "seed": 1000 * index + number})
                except Exception as error:  # it is what is counted
                    faults.append(str(error))
                row.append(1000 * (time.monotonic() - begun))

    threads = [threading.Thread(target=robot, args=(row, i)) for i, row in enumerate(times)]
    for thread in threads:
        thread.start()
    together.wait()
    begun = time.monotonic()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - begun
    flat = np.array([t for row in times for t in row])
    return {
        "requests": count * requests,
        "answered": len(flat) - len(faults),
        "lost": faults[:3] or 0,
        "p50, ms": round(float(np.percentile(flat, 50)), 1),
        "p95, ms": round(float(np.percentile(flat, 95)), 1),
        "p99, ms": round(float(np.percentile(flat, 99)), 1),
        "requests a second": round(len(flat) / seconds, 1),
    }


def garbage(port: int) -> None:
    """A client that sends what is no request, over and over."""
    messages = (b"\xc1", b"\x91" * 100_000, b"\xdd\xff\xff\xff\xff", pack({"prompt": "x"}), "text")
    while True:
        try:
            with connect(f"ws://127.0.0.1:{port}", proxy=None, max_size=None) as line:
                for message in messages:
                    line.send(message)
                    line.recv()
                    time.sleep(0.02)
        except (OSError, WebSocketException):
            time.sleep(0.1)


def large(port: int) -> None:
    """A client that sends messages of 128 MiB, over and over."""
    side = 6688  # 128 MiB less the other keys
    seen = {**SEEN, "observation/front": np.zeros((side, side, 3), np.uint8)}
    while True:
        try:
            with Client(port=port, timeout=5) as policy:
                policy.infer(seen)
        except Exception:  # refused: too many pixels
            time.sleep(0.1)


def crowd(requests: int) -> dict[str, Any]:
    """50 clients alone, then next to three that misbehave."""
    with Served(10, "--max-clients", "64", "--max-queue", "64") as served:
        alone = clients(served.port, 50, requests)
        hung, context = served.raw(UPGRADE + half(10 * MIB)), multiprocessing.get_context("spawn")
        others = [context.Process(target=act, args=(served.port,)) for act in (garbage, large)]
        for other in others:  # apart, or they would take the time of the clients
            other.start()
        time.sleep(3)
        among = clients(served.port, 50, requests)
        for other in others:
            other.kill()
        hung.close()
        return {"alone": alone, "among three that misbehave": among, "peak, MiB": served.peak_mib}


def batches(requests: int) -> dict[str, Any]:
    """8 clients with batches of 8 and one after the other, in turns."""
    found: dict[str, list[float]] = {"8": [], "1": []}
    with Served(10, "--max-batch", "8") as many, Served(10, "--max-batch", "1") as one:
        for _ in range(3):
            for name, served in (("8", many), ("1", one)):
                rate = clients(served.port, 8, requests, SMALL)["requests a second"]
                found[name].append(rate)
    ratio = float(np.median(found["8"]) / np.median(found["1"]))
    return {
        "requests a second, batches of 8": found["8"],
        "one after the other": found["1"],
        "ratio of medians": round(ratio, 2),
    }


def memory(requests: int) -> dict[str, Any]:
    """Resident memory of the server, every 500 requests."""
    with Served(2) as served:

        def resident() -> float:
            text = Path(f"/proc/{served.process.pid}/statm").read_text()
            return int(text.split()[1]) * 4096 / MIB

        with Client(port=served.port) as policy:
            for number in range(300):
                policy.infer({**SEEN, "seed": number})
            points = [resident()]
            for number in range(requests):
                policy.infer({**SEEN, "seed": number, "prompt": f"task {number % 50}"})
                if (number + 1) % 500 == 0:
                    points.append(resident())
        return {
            "MiB after 300 requests, then every 500": [round(point, 1) for point in points],
            "growth, MiB": round(points[-1] - points[0], 1),
        }


def main(args: Sequence[str] | None = None) -> None:
    """Print what each scenario found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", help="a part of a scenario's name")
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    options = parser.parse_args(args)
    scenarios: dict[str, Callable[[], Any]] = {
        "50 clients": lambda: crowd(options.requests),
        "batches": lambda: batches(options.requests),
        "memory": lambda: memory(100 * options.requests),
    }
    for name, scenario in scenarios.items():
        if options.only is None or options.only in name:
            print(f"{name}: {scenario()}", flush=True)


if __name__ == "__main__":
    main()
