"""Network latency of a chunk: a client in its own process requests from a server in this one.

The server runs here, with the measured policy in its run mode, because a second copy
would cost its memory again. The client is another process, because it would otherwise wait for the
same interpreter: so both ends run as they do on a robot, over loopback.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from statistics import median
from typing import Any

from ..errors import WamkitError
from ..files import strict_json
from ..policy.policy import Policy
from ..serve.server import Server, address_of, bind, run_in_thread
from .measure import Row, p95


@dataclass(frozen=True)
class Network:
    """Round trips over loopback, and their sizes."""

    rows: tuple[Row, ...]
    bytes_up: int
    bytes_down: int

    @property
    def boundaries(self) -> dict[str, str]:
        """stage -> description."""
        up, down = f"{self.bytes_up / 1e3:.3g} kB", f"{self.bytes_down / 1e3:.3g} kB"
        return {
            "network": "a round trip less policy.act: packed, sent over loopback, checked, "
            f"answered and unpacked, {up} up and {down} down; not in a chunk",
            "round trip": "a client's request to its reply, the client in a process of its own, "
            "images of the size of the policy's views",
        }


def network(policy: Policy, iters: int = 10) -> Network:
    """Measure a server of this policy over `iters` requests of one client."""
    server = Server(policy)
    server.warm_up()
    listener = bind("127.0.0.1", 0)
    with run_in_thread(server, listener):
        host, port = address_of(listener)
        command = [sys.executable, "-m", "wamkit.serve.latency", host, str(port), str(iters)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise WamkitError(
            f"the client of the measurement failed: {done.stderr.strip().splitlines()[-1:]}",
            "try `wamkit serve` with the same policy, and a client of your own",
        )
    found: dict[str, Any] = strict_json.loads(done.stdout)
    whole, inner = found["round_trip_ms"], found["policy_ms"]
    rest = [all_ - policy_ for all_, policy_ in zip(whole, inner, strict=True)]
    rows = (_row("network", rest), _row("round trip", whole))
    return Network(rows, found["bytes_up"], found["bytes_down"])


def _row(stage: str, times: list[float]) -> Row:
    """`times` in milliseconds."""
    return Row(stage, calls=0, median_ms=median(times), p95_ms=p95(times), share=0.0)
