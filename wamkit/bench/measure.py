"""Measure a chunk of a policy: stages, operations, roofline, memory and framework overhead.

Whole chunks are timed without any tap, and staged ones with the device waited for around every
stage, in turn, so that a busy machine slows both alike. Work is counted, not timed: matrix
products, attention and convolutions (`wamkit.policy.cost.Counter`).
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any

import torch
from PIL import Image

from ..config.parts import KINDS
from ..config.prompts import fill_template
from ..files.images import open_image
from ..policy.observation import Observation, random_observation
from ..policy.policy import DTYPES, Policy
from ..policy.run_mode import captures
from .definitions import FIGURES, STAGES
from .hooks import Call, StageRecorder, record_calls
from .machine import Roofline, machine, measure_roofline, peak_bytes, seconds

ITERS = 20
"""Chunks that are counted: the fewest of which the 95th percentile is not simply the longest."""


@dataclass(frozen=True)
class Row:
    """One stage of a chunk."""

    stage: str
    calls: int  # in a chunk; 0 for stages outside it
    median_ms: float  # of one call
    p95_ms: float
    share: float  # of the chunk, all calls together
    operations: int = 0  # of one call
    bytes: int = 0
    floor_ms: float = 0.0  # minimum time of a call on this device, by the measured roofline
    times_floor: float | None = None  # median over floor


@dataclass(frozen=True)
class Report:
    """All results of one measurement, with their conditions."""

    spec: str
    mode: str
    batch: int
    dtype: str
    machine: Mapping[str, Any]
    roofline: Roofline
    rows: Sequence[Row]
    chunk: Row
    first_ms: float  # the first chunk of all: compilation, recording, buffers
    peak_bytes: int
    chunks_per_second: float
    actions_per_second: float
    max_control_hz: (
        float  # control rate at which a chunk is ready when the last one has been played
    )
    required_hz: float
    framework: float | None  # share of a chunk that is neither in a part nor in a kernel it calls
    framework_quartiles: tuple[float, float] | None  # the first and the third, of the iterations
    random: tuple[str, ...]  # parts with random weights
    iters: int
    quantized: str  # kind of rounding, or "none"
    act_options: Mapping[str, Any]  # of the paradigm, for every chunk
    sizes: Mapping[str, Any]  # the spec

    def json(self) -> dict[str, Any]:
        """As plain data, with the boundary of each number."""
        return {**asdict(self), "boundaries": {**STAGES, **FIGURES}}


@torch.no_grad()
def measure(
    policy: Policy,
    *,
    mode: str = "eager",
    batch: int = 1,
    iters: int = ITERS,
    warmup: int = 2,
    name: str = "",
    act_options: Mapping[str, Any] | None = None,
) -> Report:
    """Measure `policy.act` on random images, in `mode`, over `iters` chunks.

    The policy is left in `mode`. Raises WamkitError if it cannot run in it.
    """
    chosen, device, spec = dict(act_options or {}), policy.device, policy.spec
    dtype = DTYPES[spec.dtype]
    seen = random_observation(spec, batch=batch, frames=spec.video.num_observed)

    def act() -> None:
        policy.act(seen, seed=0, **chosen)

    policy.set_mode("eager")
    act()
    work = StageRecorder(device, counts=True)
    with work.record(policy):
        act()
    shares = framework(policy, act, iters) if mode == "eager" else []

    top = measure_roofline(device, dtype)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    policy.set_mode(mode)
    first = seconds(act, device)
    for _ in range(warmup):
        act()
    whole, staged = [], []
    for _ in range(iters):
        whole.append(seconds(act, device))
        stages = StageRecorder(device)
        with stages.record(policy):
            total = seconds(act, device)
        staged.append((stages.calls, total))
    peak = peak_bytes(device)
    top = top.higher(measure_roofline(device, dtype))
    rows = [
        *_rows_outside_chunk(policy, seen, device, iters),
        *_rows(staged, _work(work.calls, mode), top),
    ]
    ops, moved = sum(c.operations for c in work.calls), sum(c.bytes for c in work.calls)
    chunk = _row("chunk", whole, 1, statistics.median(whole), (ops, moved), top)
    took = chunk.median_ms / 1000
    return Report(
        spec=name or spec.backbone.name,
        mode=mode,
        batch=batch,
        dtype=spec.dtype,
        machine=machine(device),
        roofline=top,
        rows=rows,
        chunk=chunk,
        first_ms=1000 * first,
        peak_bytes=peak,
        chunks_per_second=1 / took,
        actions_per_second=batch * spec.actions.chunk_size / took,
        max_control_hz=spec.actions.chunk_size / took,
        required_hz=spec.actions.control_hz,
        framework=statistics.median(shares) if shares else None,
        framework_quartiles=_quartiles(shares) if shares else None,
        random=tuple(k for k in KINDS if _random(getattr(spec, k), getattr(policy, k))),
        iters=iters,
        quantized=policy.quantized,
        act_options=chosen,
        sizes=spec.dump(),
    )


def framework(policy: Policy, act: Callable[[], None], iters: int) -> list[float]:
    """Of every round, the share that goes when the parts are called by hand with the same tensors.

    Every call of a part's own methods (blocks, attention, ends, VAE, text, layout) and every
    operation of torch between them (noise, a solver's steps, room for keys) is recorded once, and
    made again in the same order with nothing between; tensors cached per chunk are computed
    once here too.
    """
    calls: list[Callable[[], Any]] = []
    with record_calls(policy, calls):
        act()

    def by_hand() -> None:
        for call in calls:
            call()

    by_hand()
    spent = _cpu_time if policy.device.type == "cpu" else seconds
    pairs = [(spent(act, policy.device), spent(by_hand, policy.device)) for _ in range(iters)]
    return [(whole - hand) / whole for whole, hand in pairs]


def _quartiles(found: Sequence[float]) -> tuple[float, float]:
    first, _, third = statistics.quantiles(found, n=4, method="inclusive")
    return first, third


def _cpu_time(run: Callable[[], Any], device: torch.device) -> float:
    """Processor seconds of one run on the CPU, which others on the machine disturb least."""
    start = time.process_time()
    run()
    return time.process_time() - start


def _rows_outside_chunk(
    policy: Policy, seen: Observation, device: torch.device, iters: int
) -> list[Row]:
    """Stages that are not part of every chunk: images from a camera, and new prompts."""
    buffer = io.BytesIO()
    Image.effect_noise((640, 480), 60).convert("RGB").save(buffer, "JPEG")
    names = list(seen.images)

    def images() -> None:
        with ExitStack() as files:
            found = {n: files.enter_context(open_image(buffer.getvalue(), n)) for n in names}
            Observation(images=found, prompt="pick up the cup")

    prompt = fill_template(policy.spec.text_encoder.prompt_template, "task 1")
    runs: dict[str, Callable[[], Any]] = {
        "images": images,
        "text, new": lambda: policy.text_encoder.encode([prompt]),
    }
    return [
        _row(stage, [seconds(run, device) for _ in range(iters + 1)][1:], 0, None, (0, 0), None)
        for stage, run in runs.items()
    ]


def _work(calls: Sequence[Call], mode: str) -> dict[str, tuple[int, int]]:
    """Operations and bytes of a call of each stage, on average: a first one may fill caches.

    In a graph all passes are one call.
    """
    found: dict[str, tuple[int, int]] = {}
    for stage in dict.fromkeys(call.stage for call in calls):
        same = [call for call in calls if call.stage == stage]
        ops, moved = sum(call.operations for call in same), sum(call.bytes for call in same)
        found[stage] = ops // len(same), moved // len(same)
    if captures(mode):
        passes = [c for c in calls if c.stage.startswith(("prefill", "step"))]
        total = sum(c.operations for c in passes), sum(c.bytes for c in passes)
        found["network, one graph"] = total
    return found


def _rows(
    staged: Sequence[tuple[Sequence[Call], float]],
    work: Mapping[str, tuple[int, int]],
    top: Roofline,
) -> list[Row]:
    total = statistics.median(total for _, total in staged)
    rows = []
    for stage in dict.fromkeys(call.stage for calls, _ in staged for call in calls):
        times = [call.seconds for calls, _ in staged for call in calls if call.stage == stage]
        rows.append(
            _row(stage, times, len(times) // len(staged), total, work.get(stage, (0, 0)), top)
        )
    rest = [total - sum(call.seconds for call in calls) for calls, total in staged]
    return [*rows, _row("between stages", rest, 1, total, (0, 0), top)]


def _row(
    stage: str,
    times: Sequence[float],
    calls: int,
    total: float | None,
    work: tuple[int, int],
    top: Roofline | None,
) -> Row:
    """`times` are those of single calls, `total` that of a chunk, in seconds."""
    median = statistics.median(times)
    floor = top.floor(*work) if top is not None else 0.0
    return Row(
        stage,
        calls,
        1000 * median,
        1000 * p95(times),
        0.0 if total is None else calls * median / total,
        *work,
        1000 * floor,
        median / floor if floor else None,
    )


def p95(times: Sequence[float]) -> float:
    """What 19 of 20 of `times` keep within; of fewer than 20 the longest."""
    return sorted(times)[ceil(0.95 * len(times)) - 1]


def _random(config: Any, part: Any) -> bool:
    """True if a part has weights, and none are named."""
    has = isinstance(part, torch.nn.Module) and next(part.parameters(), None) is not None
    return has and getattr(config, "weights", None) is None
