"""What acting takes in each precision: memory, and the least time that known devices need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..bench.machine import Roofline
from ..config.spec import PolicySpec
from ..policy.footprint import Footprint, Work, footprint
from ..policy.policy import DTYPES
from .devices import Peak
from .plan import MARGIN


@dataclass(frozen=True)
class Precision:
    """A dtype of backbone and head, and a quantization of their large weights."""

    name: str
    dtype: str
    quantize: str = "none"

    @property
    def options(self) -> str:
        """What is typed for it."""
        return f"--set dtype={self.dtype}" + f" --quantize {self.quantize}" * (
            self.quantize != "none"
        )


PRECISIONS = (
    Precision("float32", "float32"),
    Precision("bfloat16", "bfloat16"),
    Precision("int8_weights", "bfloat16", "int8_weights"),
    Precision("int8", "bfloat16", "int8"),
)


@dataclass(frozen=True)
class Acting:
    """What acting takes in one precision, for a batch of observations."""

    precision: str
    options: str
    """What is typed for it."""
    weights: dict[str, int]
    """part -> bytes."""
    cache: int
    """Bytes of keys, values and buffers made of them."""
    activations: int
    """Bytes of all else that is alive at the worst moment."""
    total: int
    passes: int
    """Calls of the network in a chunk."""
    operations: int
    """Of a chunk, the VAE's included."""
    bytes_moved: int
    """Read and written in a chunk by products, attention and convolutions."""
    milliseconds: dict[str, float | None] = field(default_factory=dict)
    """device -> the least time of a chunk; None if a peak of the device is not known."""


@dataclass(frozen=True)
class Estimate:
    """What acting takes, in every precision that there is for a policy."""

    rows: tuple[Acting, ...]
    unsupported: dict[str, str]
    """precision -> why it makes no sense here."""
    assumptions: tuple[str, ...]
    left_out: tuple[str, ...]
    """What is not counted, and why."""


Device = Peak | Roofline
"""A known device, or the measured roofline of this one in one dtype."""


def estimate_acting(
    spec: PolicySpec,
    *,
    batch: int = 1,
    devices: Mapping[str, Device] | None = None,
    precisions: Sequence[Precision] = PRECISIONS,
    act_options: Mapping[str, Any] | None = None,
) -> Estimate:
    """What acting takes for `batch` observations at once, counted without a weight.

    `act_options` are the paradigm's: one of its `variants`.
    """
    found = {
        dtype: footprint(spec.model_copy(update={"dtype": dtype}), **(act_options or {}))
        for dtype in dict.fromkeys(p.dtype for p in precisions)
    }
    rows, unsupported = [], {}
    for precision in precisions:
        one = found[precision.dtype]
        if precision.quantize != "none" and not one.rounded:
            unsupported[precision.name] = "no linear layer is large enough to be rounded"
            continue
        rows.append(acting(spec, one, precision, batch, devices or {}))
    first = next(iter(found.values()))
    return Estimate(tuple(rows), unsupported, assumptions(spec, batch, first), first.left_out)


def acting(
    spec: PolicySpec,
    one: Footprint,
    precision: Precision,
    batch: int,
    devices: Mapping[str, Device],
) -> Acting:
    """What acting takes in one precision; `one` is of its dtype."""
    weights = one.weights if precision.quantize == "none" else one.quantized_weights()
    cache, activations = batch * one.cache, batch * one.activations
    moved = [_moved(work, precision, batch) for work in one.work]
    return Acting(
        precision.name,
        precision.options,
        dict(weights),
        cache,
        activations,
        sum(weights.values()) + cache + activations,
        one.passes,
        batch * sum(work.operations for work in one.work),
        sum(moved),
        {
            name: _milliseconds(one.work, moved, spec.vae.dtype, precision, batch, device)
            for name, device in devices.items()
        },
    )


def text_assumption(spec: PolicySpec, left_out: Sequence[str]) -> str:
    """What an estimate of acting takes for granted of the text encoder."""
    if spec.text_encoder.embeddings_file is not None:
        return "embeddings of prompts are read from a file, and no text encoder is held"
    if any(line.startswith("text_encoder:") for line in left_out):
        return "the text encoder is held too, and is not in the total"
    return (
        "the prompt was met before: the text encoder is held, in the dtype of its files (a "
        "published one without files in bfloat16), and its work is not in a chunk"
    )


def assumptions(spec: PolicySpec, batch: int, one: Footprint) -> tuple[str, ...]:
    """What an estimate of acting takes for granted."""
    steps = ", ".join(f"{part} {flow.steps}" for part, flow in spec.schedules if flow is not None)
    found = [
        f"batch {batch}: cache and activations of one observation, times {batch}",
        f"{one.passes} {'pass' if one.passes == 1 else 'passes'} of the network a chunk; steps of "
        f"the schedules: {steps} (--set schedules.action.steps=N)",
        "exact: bytes of weights, sizes of the KV cache and its buffers, operations of products",
        "approximate: activations are what is alive at the worst moment of mode eager; add the "
        "kernels' workspaces, the context of CUDA and fragments: `wamkit fit` asks for room for "
        f"{MARGIN:.0%} more",
        "8 bits: one byte an element and a float32 scale a row, for large linear layers in the "
        "blocks of backbone and head; their inputs stay in bfloat16 in memory",
        f"the VAE is held whole, in {spec.vae.dtype}; its decoder does not run",
        text_assumption(spec, one.left_out),
        "times are floors: each pass takes the longer of its operations and its bytes at the "
        "peaks of the data sheet; real kernels take longer, small policies many times as long",
    ]
    if len(spec.paradigm.variants) > 1:
        found.append(
            "one variant of the paradigm alone: one that chooses between them while it acts may "
            "hold what several need"
        )
    if spec.paradigm.build().stateful:  # type: ignore[attr-defined]
        found.append("the first chunk of an episode: this paradigm keeps more with every chunk")
    return tuple(found)


def _moved(work: Work, precision: Precision, batch: int) -> int:
    """Bytes that a pass reads and writes: weights once, all else for each observation."""
    saved = 0
    if precision.quantize != "none":
        saved = (DTYPES[precision.dtype].itemsize - 1) * work.rounded_elements
    return work.weight_bytes - saved + batch * (work.bytes - work.weight_bytes)


def _milliseconds(
    works: Sequence[Work],
    moved: Sequence[int],
    vae_dtype: str,
    precision: Precision,
    batch: int,
    device: Device,
) -> float | None:
    total = 0.0
    for number, (work, size) in enumerate(zip(works, moved, strict=True)):
        dtype = vae_dtype if number == 0 else precision.dtype
        rounded = work.rounded_operations if precision.quantize == "int8" else 0
        if isinstance(device, Roofline):
            if rounded or (work.operations and device.dtype != dtype):
                return None
            total += device.floor(batch * work.operations, size)
            continue
        peak: Any = getattr(device, dtype)
        compute = (work.operations - rounded) / peak + rounded / device.int8
        total += max(batch * compute, size / device.bandwidth)
    return 1000 * total
