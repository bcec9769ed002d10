"""The device that numbers are of: its name and software, its memory, and its roof in this run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def machine(device: torch.device) -> dict[str, Any]:
    """What a number depends on besides the policy: hardware, software, threads, date."""
    found: dict[str, Any] = {
        "device": device.type,
        "name": _processor() if device.type == "cpu" else torch.cuda.get_device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    for package in ("wamkit", "torch"):
        found[package] = importlib.metadata.version(package)
    return found


def _processor() -> str:
    """The name of the processor as Linux tells it, or as Python does."""
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def settle(device: torch.device) -> None:
    """Wait until the device has done all it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one run, the device idle before and after it."""
    settle(device)
    start = time.perf_counter()
    run()
    settle(device)
    return time.perf_counter() - start


def peak_bytes(device: torch.device) -> int:
    """The most memory held: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Roof:
    """What a device does at best, measured: nothing can be faster than its slower half."""

    bytes_per_second: float  # of a copy, read and written
    operations_per_second: float  # of a square matrix product in `dtype`
    dtype: str

    def floor(self, operations: int, read_and_written: int) -> float:
        """Seconds that so many operations and bytes take at least."""
        return max(
            operations / self.operations_per_second, read_and_written / self.bytes_per_second
        )


@torch.no_grad()
def roof(device: torch.device, dtype: torch.dtype, *, count: int = 7) -> Roof:
    """The roof of a device: the fastest of `count` copies and products after two to warm up.

    The copy is of 64 MB on a CPU and of 1 GB on a GPU, the product of 768 x 768 on a CPU and of
    8192 x 8192 on a GPU.
    """
    gpu = device.type == "cuda"
    size, side = (2**30, 8192) if gpu else (2**26, 768)
    source = torch.ones(size, dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    a = torch.ones(side, side, dtype=dtype, device=device)

    def fastest(run: Callable[[], Any]) -> float:
        return min([seconds(run, device) for _ in range(count + 2)][2:])

    copying, multiplying = fastest(lambda: goal.copy_(source)), fastest(lambda: a @ a)
    return Roof(2 * size / copying, 2 * side**3 / multiplying, str(dtype).removeprefix("torch."))
