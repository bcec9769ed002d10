"""The measured device: its name and software, its memory, and its roofline in this run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

INSTRUCTIONS = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
"""What decides how fast products are, by the names that Linux gives it on x86 and on Arm."""


def machine(device: torch.device) -> dict[str, Any]:
    """Conditions of a measurement besides the policy: hardware, software, threads, date.

    "cores" are physical cores, "processors" what the system runs threads on and this
    process may use. One name can stand for several processors, so "capability" is the instructions
    that torch's own kernels use here, and "instructions" those that count for products.
    """
    gpu = device.type == "cuda"
    listed = _list_values()
    found: dict[str, Any] = {
        "device": device.type,
        "name": torch.cuda.get_device_name(device) if gpu else _name(listed),
        "cores": _cores(listed),
        "processors": _processors(),
        "capability": _capability(device),
        "instructions": [] if gpu else _instructions(listed),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    for package in ("wamkit", "torch"):
        found[package] = importlib.metadata.version(package)
    return found


def load_warning(found: Mapping[str, Any]) -> str | None:
    """A warning if more wants to run on a machine (`machine`) than it has processors for."""
    load, room = found["load"], found["processors"]
    if load <= room:
        return None
    return (
        f"the machine is busy: a load of {load:g} on {room} processors; times are longer than they "
        "need be, and vary"
    )


def _list_values() -> list[dict[str, str]]:
    """Fields of /proc/cpuinfo, one table per processor; empty on other systems."""
    listing = Path("/proc/cpuinfo")
    if not listing.is_file():
        return []
    blocks = listing.read_text().strip().split("\n\n")
    pairs = [[line.partition(":") for line in block.splitlines()] for block in blocks]
    return [{key.strip(): value.strip() for key, _, value in block} for block in pairs]


def _name(listed: Sequence[Mapping[str, str]]) -> str:
    """The name of the processor, from /proc/cpuinfo or from Python."""
    named = [processor["model name"] for processor in listed if "model name" in processor]
    return named[0] if named else platform.processor() or platform.machine()


def _cores(listed: Sequence[Mapping[str, str]]) -> int:
    """Cores of the machine, those counted once that run two threads."""
    places = {(p["physical id"], p["core id"]) for p in listed if "core id" in p}
    return len(places) or os.cpu_count() or 1


def _processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _capability(device: torch.device) -> str:
    """The instructions that torch's own kernels use on a CPU; the architecture of a GPU."""
    if device.type == "cuda":
        return "{}.{}".format(*torch.cuda.get_device_capability(device))
    return str(torch.backends.cpu.get_cpu_capability())


def _instructions(listed: Sequence[Mapping[str, str]]) -> list[str]:
    """Those of INSTRUCTIONS that the processor has."""
    first = listed[0] if listed else {}
    flags = set(first.get("flags", first.get("Features", "")).split())
    return [name for name in INSTRUCTIONS if name in flags]


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one run, the device idle before and after it."""
    synchronize(device)
    start = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - start


def peak_bytes(device: torch.device) -> int:
    """The most memory held: by tensors on a GPU, by the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@dataclass(frozen=True)
class Roofline:
    """Measured peak memory bandwidth and compute of a device."""

    bytes_per_second: float  # of a copy, read and written
    operations_per_second: float  # of a square matrix product in `dtype`
    dtype: str

    def floor(self, operations: int, read_and_written: int) -> float:
        """Seconds that the operations and bytes take at least."""
        return max(
            operations / self.operations_per_second, read_and_written / self.bytes_per_second
        )

    def higher(self, other: Roofline) -> Roofline:
        """The better of each half of two measurements: what disturbs one only makes it slower."""
        return Roofline(
            max(self.bytes_per_second, other.bytes_per_second),
            max(self.operations_per_second, other.operations_per_second),
            self.dtype,
        )


@torch.no_grad()
def measure_roofline(device: torch.device, dtype: torch.dtype, *, count: int = 7) -> Roofline:
    """Measure the roofline: the fastest of `count` copies and products after two to warm up.

    The copy is of 64 MB on a CPU and of 1 GB on a GPU, the product of 768 x 768 on a CPU and of
    8192 x 8192 on a GPU, both of random values: a GPU that multiplies equal ones draws less power,
    and keeps a clock that no network will see.
    """
    gpu = device.type == "cuda"
    size, side = (2**30, 8192) if gpu else (2**26, 768)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device=device)
    goal = torch.empty_like(source)
    a = torch.randn(side, side, device=device).to(dtype)

    def fastest(run: Callable[[], Any]) -> float:
        return min([seconds(run, device) for _ in range(count + 2)][2:])

    copying, multiplying = fastest(lambda: goal.copy_(source)), fastest(lambda: a @ a)
    return Roofline(
        2 * size / copying, 2 * side**3 / multiplying, str(dtype).removeprefix("torch.")
    )
