"""Measure the latency of a server with a client in a process of its own, as on a robot.

`python -m wamkit.serve.latency HOST PORT ROUNDS` requests ROUNDS chunks after two warm-up requests,
with random images of the sizes that the policy expects, and prints the times as JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np

from ..files import strict_json
from .client import Client
from .codec import pack

UNCOUNTED = 2


def random_request(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """A request that fits this metadata: images of random pixels, a state of zeros."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {}
    for camera in metadata["cameras"].values():
        shape = (metadata["num_images"], *camera["size"])
        if (ends := camera.get("value_range")) is not None:
            found[camera["key"]] = rng.uniform(ends[0], ends[1], shape).astype(np.float32)
        else:
            found[camera["key"]] = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    if metadata["state"]["size"]:
        found[metadata["state"]["key"]] = np.zeros(metadata["state"]["size"], np.float32)
    return {**found, "prompt": "pick up the cup", "seed": 0}


def measure_latency(host: str, port: int, iters: int) -> dict[str, Any]:
    """Measure round trips: total and policy milliseconds of each, and bytes sent and received."""
    whole, policy = [], []
    with Client(host, port) as client:
        request = random_request(client.metadata)
        for _ in range(iters + UNCOUNTED):
            client.reset()
            begun = perf_counter()
            reply = client.infer(request)
            whole.append(1000 * (perf_counter() - begun))
            policy.append(reply["policy_timing"]["infer_ms"])
    return {
        "round_trip_ms": whole[UNCOUNTED:],
        "policy_ms": policy[UNCOUNTED:],
        "bytes_up": len(pack({**request, "reset": True})),
        "bytes_down": len(pack(reply)),
    }


if __name__ == "__main__":
    print(strict_json.dumps(measure_latency(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
