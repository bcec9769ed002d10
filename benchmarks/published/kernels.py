"""Where the time of a chunk goes on its device: its kernels one by one, by kind, and the gaps.

A profiler changes what it watches: kernels are as long as without it, but not what lies between
them. So the gaps are the time on the clock without a profiler, less that of all kernels. On the
CPU what is listed are torch's operations, each without those that it calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

ELEMENTWISE = "elementwise and others"
KINDS = (
    (ELEMENTWISE, r"^triton_poi"),
    ("norms and sums", r"^triton_(per|red)"),
    ("attention", r"flash|fmha|sdpa|attention|attn"),
    ("convolutions", r"conv(\d|ol)|fprop|winograd|im2col"),
    ("matrix products", r"gemm|gemv|nvjet|cutlass|cublas|splitk|mm\b|linear|^triton_tem"),
    ("copies and casts", r"memcpy|memset|copy|catarray|::cat\b"),
    ("norms and sums", r"norm|reduc|softmax"),
)
"""Kinds of kernels by what their names hold; the first that fits. All else is elementwise."""


@dataclass(frozen=True)
class Profile:
    """The kernels of one run."""

    clock_ms: float  # of such a run without a profiler
    calls: Mapping[str, int]  # name -> how many kernels of it
    took_ms: Mapping[str, float]  # name -> all of them together

    @property
    def count(self) -> int:
        """How many kernels there were."""
        return sum(self.calls.values())

    @property
    def busy_ms(self) -> float:
        """All kernels together."""
        return sum(self.took_ms.values())

    def kinds(self) -> dict[str, float]:
        """Milliseconds of each kind of kernel, most first."""
        found: dict[str, float] = {}
        for name, ms in self.took_ms.items():
            found[kind(name)] = found.get(kind(name), 0.0) + ms
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def lines(self, title: str, most: int = 10) -> Iterator[str]:
        """A sentence, and the kernels that take most as a table."""
        gaps = max(0.0, self.clock_ms - self.busy_ms)  # operations on a CPU grow when watched
        kinds = (f"{name} {ms:.2f} ms" for name, ms in self.kinds().items())
        yield (
            f"{title}: {self.clock_ms:.2f} ms on the clock; {self.count} kernels take "
            f"{self.busy_ms:.2f} ms, and {gaps:.2f} ms ({share(gaps, self.clock_ms)}) lie between "
            f"them. By kind: {', '.join(kinds)}."
        )
        yield ""
        yield "| ms | of the clock | calls | us each | kernel |"
        yield "|---|---|---|---|---|"
        for name, ms in sorted(self.took_ms.items(), key=lambda item: -item[1])[:most]:
            calls, label = self.calls[name], name.replace("|", "/")[:100]
            yield (
                f"| {ms:.3f} | {share(ms, self.clock_ms)} | {calls} | {1000 * ms / calls:.1f} | "
                f"`{label}` |"
            )


def share(part: float, whole: float) -> str:
    """In percent."""
    return f"{100 * part / whole:.0f} %"


def kind(name: str) -> str:
    """What a kernel of this name does."""
    low = name.lower()
    return next((kind for kind, pattern in KINDS if re.search(pattern, low)), ELEMENTWISE)


def profiled(run: Callable[[], Any], device: torch.device, clock_ms: float) -> Profile:
    """The kernels of one `run`, which takes `clock_ms` without a profiler."""
    gpu = device.type == "cuda"
    activity = ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU
    with profile(activities=[activity], acc_events=True) as watched:
        run()
        if gpu:
            torch.cuda.synchronize(device)
    wanted = DeviceType.CUDA if gpu else DeviceType.CPU
    calls: dict[str, int] = {}
    took: dict[str, float] = {}
    for event in watched.events() or ():
        if event.device_type != wanted or event.is_user_annotation:
            continue
        us = event.time_range.elapsed_us() if gpu else event.self_cpu_time_total
        calls[event.name] = calls.get(event.name, 0) + 1
        took[event.name] = took.get(event.name, 0.0) + us / 1000
    return Profile(clock_ms, calls, took)
