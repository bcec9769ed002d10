"""A policy's chunk measured: stages, work, floors, memory, and what the framework itself costs.

Whole chunks are timed without any tap, and staged ones with the device waited for around every
stage, in turn, so that a busy machine slows both alike. Work is counted, not timed: matrix
products, attention and convolutions (`wamkit.cost.Counter`).
"""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image

from ..modes import records
from ..observation import Observation
from ..parts import KINDS
from ..policy import DTYPES, Policy
from ..spec import PolicySpec
from ..trial import observation
from .machine import Roof, machine, peak_bytes, roof, seconds
from .taps import Call, Stages, recorded

BOUNDARIES = {
    "pictures": "JPEG bytes of a 480 x 640 picture a camera to uint8 tensors; not in a chunk",
    "camera layout": "crop, resize and place all views on the canvas, from tensors on the device",
    "text": "embeddings of a prompt met before, and what the network made of them: looked up",
    "text, new": "a prompt the policy has not met, through the text encoder; not in a chunk",
    "conditioner": "the backbone's own conditioner of picture or words",
    "VAE": "pixels of all views to latents",
    "prefill": "one pass of what is observed, whose keys are kept",
    "step": "one evaluation of the network in the denoising loop",
    "network, one graph": "prefill and all steps as one recorded CUDA graph, inputs copied in",
    "decode of actions": "normalized numbers to physical units on the CPU",
    "between stages": "copies to the device, noise, solver, bookkeeping",
    "chunk": "policy.act: tensors of pictures in, actions in physical units on the CPU out",
}


@dataclass(frozen=True)
class Row:
    """One stage of a chunk."""

    stage: str
    calls: int  # in a chunk; 0 for what is not part of one
    median_ms: float  # of one call
    p95_ms: float
    share: float  # of the chunk, all calls together
    operations: int = 0  # of one call
    bytes: int = 0
    floor_ms: float = 0.0  # what one call takes at least on this device, by the measured roof
    times_floor: float | None = None  # median over floor


@dataclass(frozen=True)
class Report:
    """All numbers of one measurement, with what they depend on."""

    spec: str
    mode: str
    batch: int
    dtype: str
    machine: Mapping[str, Any]
    roof: Roof
    rows: Sequence[Row]
    chunk: Row
    first_ms: float  # the first chunk of all: compilation, recording, buffers
    peak_bytes: int
    chunks_per_second: float
    actions_per_second: float
    sustains_hertz: (
        float  # control rate at which a chunk is ready when the last one has been played
    )
    wants_hertz: float
    closed_formula: float  # operations counted in all passes over those of the closed formula
    framework: float | None  # share of a chunk that is neither in a part nor in a kernel it calls
    random: tuple[str, ...]  # parts with random weights
    rounds: int

    def json(self) -> dict[str, Any]:
        """As plain data, with the boundary of each number."""
        return {**asdict(self), "boundaries": BOUNDARIES}


@torch.no_grad()
def measure(
    policy: Policy,
    *,
    mode: str = "eager",
    batch: int = 1,
    rounds: int = 10,
    warmup: int = 2,
    name: str = "",
    choices: Mapping[str, Any] | None = None,
) -> Report:
    """Measure `policy.act` on random pictures, in `mode`, over `rounds` chunks.

    The policy is left in `mode`. Raises WamkitError if it cannot run in it.
    """
    chosen, device, spec = dict(choices or {}), policy.device, policy.spec
    dtype = DTYPES[spec.dtype]
    seen = observation(spec, batch=batch, frames=spec.video.context)

    def act() -> None:
        policy.act(seen, seed=0, **chosen)

    policy.set_mode("eager")
    act()
    work = Stages(device, counts=True)
    with work.watching(policy):
        act()
    share = framework(policy, act, rounds) if mode == "eager" else None

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    policy.set_mode(mode)
    first = seconds(act, device)
    for _ in range(warmup):
        act()
    whole, staged = [], []
    for _ in range(rounds):
        whole.append(seconds(act, device))
        stages = Stages(device)
        with stages.watching(policy):
            total = seconds(act, device)
        staged.append((stages.calls, total))
    peak = peak_bytes(device)
    top = roof(device, dtype)
    rows = [*_beside(policy, seen, device, rounds), *_rows(staged, _work(work.calls, mode), top)]
    passes = [c for c in work.calls if c.stage.startswith(("prefill", "step"))]
    ops, moved = sum(c.operations for c in work.calls), sum(c.bytes for c in work.calls)
    chunk = _row("chunk", whole, 1, statistics.median(whole), (ops, moved), top)
    took = chunk.median_ms / 1000
    return Report(
        spec=name or spec.backbone.name,
        mode=mode,
        batch=batch,
        dtype=spec.dtype,
        machine=machine(device),
        roof=top,
        rows=rows,
        chunk=chunk,
        first_ms=1000 * first,
        peak_bytes=peak,
        chunks_per_second=1 / took,
        actions_per_second=batch * spec.actions.chunk / took,
        sustains_hertz=spec.actions.chunk / took,
        wants_hertz=spec.actions.hertz,
        closed_formula=sum(c.operations for c in passes) / max(1, batch * by_formula(spec, passes)),
        framework=share,
        random=tuple(k for k in KINDS if _random(getattr(spec, k), getattr(policy, k))),
        rounds=rounds,
    )


def framework(policy: Policy, act: Callable[[], None], rounds: int) -> float:
    """The share of a chunk that goes when the same parts are called by hand with the same tensors.

    Every call of a part's own methods (blocks, attention, ends, VAE, text, layout) is recorded
    once, and made again in the same order with nothing between; what is computed once for a chunk
    is computed once here too.
    """
    calls: list[Callable[[], Any]] = []
    with recorded(policy, calls):
        act()

    def by_hand() -> None:
        for call in calls:
            call()

    by_hand()
    spent = _processor if policy.device.type == "cpu" else seconds
    pairs = [(spent(act, policy.device), spent(by_hand, policy.device)) for _ in range(rounds)]
    return statistics.median((whole - hand) / whole for whole, hand in pairs)


def _processor(run: Callable[[], Any], device: torch.device) -> float:
    """Processor seconds of one run on the CPU, which others on the machine disturb least."""
    start = time.process_time()
    run()
    return time.process_time() - start


def by_formula(spec: PolicySpec, passes: Sequence[Call]) -> float:
    """Operations of some passes over one sample, by a closed formula.

    For every layer and token of width D, with F the feed-forward's and I = heads x head size:
    2 (4 D I + 2 D F) for projections and feed-forward, and 2 D I twice more where words are read by
    cross-attention; 4 I for every pair of a query and a key it sees. Ends, modulation and norms are
    left out, and the head's tokens are taken to be as wide as its configuration says.
    """
    traits, tokens = spec.backbone.traits, spec.tokens()
    inner, keys = traits.heads * traits.head_size, traits.key_heads * traits.head_size
    words = tokens["text"] if traits.text == "cross" else 0
    head = spec.action_head
    narrow = getattr(head, "width", None), getattr(head, "feed_forward", None)

    def token(width: int, hidden: int) -> float:
        return 2 * (2 * width * inner + 2 * width * keys + 2 * width * hidden) + (
            4 * width * inner + 4 * inner * words if words else 0
        )

    wide = token(traits.width, traits.feed_forward or 4 * traits.width)
    small = token(narrow[0] or traits.width, narrow[1] or traits.feed_forward)
    total = 0.0
    for call in passes:
        roles, _, cached = call.stage.partition(" (cached: ")
        inside = [role.partition(".")[0].rstrip("'") for role in roles.split(": ")[1].split(", ")]
        known = [r.partition(".")[0] for r in cached.rstrip(")").split(", ") if r]
        seen = {role for role in (*inside, *known) if role in tokens}
        for role in set(inside) & set(tokens):
            video = role in ("context", "target")
            visible = spec.paradigm.sees.get(role, ())
            pairs = sum(tokens[other] for other in seen if other in visible and other != "text")
            each = (wide if video else small) + 4 * inner * pairs
            total += traits.depth * tokens[role] * each
    return total


def _beside(policy: Policy, seen: Observation, device: torch.device, rounds: int) -> list[Row]:
    """Stages that are not part of every chunk: pictures from a camera, and words that are new."""
    buffer = io.BytesIO()
    Image.effect_noise((640, 480), 60).convert("RGB").save(buffer, "JPEG")
    names = list(seen.images)

    def pictures() -> None:
        found = {name: Image.open(io.BytesIO(buffer.getvalue())) for name in names}
        Observation(images=found, prompt="pick up the cup")

    sentence = policy.spec.text_encoder.template.replace("{instruction}", "task 1")
    runs: dict[str, Callable[[], Any]] = {
        "pictures": pictures,
        "text, new": lambda: policy.text_encoder.encode([sentence]),
    }
    return [
        _row(stage, [seconds(run, device) for _ in range(rounds + 1)][1:], 0, None, (0, 0), None)
        for stage, run in runs.items()
    ]


def _work(calls: Sequence[Call], mode: str) -> dict[str, tuple[int, int]]:
    """Operations and bytes of a call of each stage, on average: a first one may make what is kept.

    In a graph all passes are one call.
    """
    found: dict[str, tuple[int, int]] = {}
    for stage in dict.fromkeys(call.stage for call in calls):
        same = [call for call in calls if call.stage == stage]
        ops, moved = sum(call.operations for call in same), sum(call.bytes for call in same)
        found[stage] = ops // len(same), moved // len(same)
    if records(mode):
        passes = [c for c in calls if c.stage.startswith(("prefill", "step"))]
        total = sum(c.operations for c in passes), sum(c.bytes for c in passes)
        found["network, one graph"] = total
    return found


def _rows(
    staged: Sequence[tuple[Sequence[Call], float]], work: Mapping[str, tuple[int, int]], top: Roof
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
    top: Roof | None,
) -> Row:
    """`times` are those of single calls, `total` that of a chunk, in seconds."""
    ordered = sorted(times)
    median = statistics.median(ordered)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    floor = top.floor(*work) if top is not None else 0.0
    return Row(
        stage,
        calls,
        1000 * median,
        1000 * p95,
        0.0 if total is None else calls * median / total,
        *work,
        1000 * floor,
        median / floor if floor else None,
    )


def _random(config: Any, part: Any) -> bool:
    """True if a part has weights, and nobody said where from."""
    has = isinstance(part, torch.nn.Module) and next(part.parameters(), None) is not None
    return has and getattr(config, "weights", None) is None
