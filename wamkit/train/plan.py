"""What training a policy will take: memory, operations and days, without a weight or a device.

A sample goes through backbone and head and back again on the meta device: every operation happens,
no number is computed. What is alive at the worst moment is the memory of the activations. Attention
is counted as the fused kernels do it: nothing of queries x keys is stored, and going back takes two
and a half times the operations (Dao, arXiv 2307.08691).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import ceil, prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config.programs import program_of
from ..config.spec import PolicySpec
from ..config.visibility import cacheable_subset, followed
from ..engine.noise_schedule import schedules_of
from ..engine.passes import PassRunner
from ..policy.adapters import AdaptedBackbone, LatentAdapter
from ..policy.cost import (
    conditioner_on_meta,
    count_encoding,
    vae_on_meta,
    without_weights,
    zero_inputs,
)
from ..policy.live_bytes import LiveBytes
from ..policy.policy import DTYPES
from .config import Lora, Parts, TrainConfig
from .lora import Adapters

MARGIN = 0.1
"""What real runs need beyond an estimate, as a share of it: kernels' workspaces, fragments and the
context of CUDA."""


@dataclass(frozen=True)
class Work:
    """What one sample takes."""

    operations: int  # forward and back, the VAE's included unless latents are stored
    activations: int  # bytes at the worst moment
    learned: int  # parameters that learn
    resting: int  # bytes of weights that do not
    block: int  # parameters of the largest block that learn
    depth: int
    left_out: tuple[str, ...] = ()  # what cannot be built on this machine, and why


@dataclass(frozen=True)
class Plan:
    """What a run takes on each device, in bytes, and how long."""

    memory: dict[str, int]
    acting: int
    """Keys and values that are kept while a chunk is denoised, for one robot."""
    operations: int
    """Of one sample."""
    days: float | None
    """At the given share of the device's peak; None if the peak is not known."""
    limit: int | None
    hints: tuple[str, ...] = field(default=())
    """What to change if it does not fit."""
    left_out: tuple[str, ...] = field(default=())
    """What is not in these numbers because it cannot be built on this machine, and why."""

    @property
    def total(self) -> int:
        """Bytes on each device."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool | None:
        """Whether there is room; None if no limit was given, or `verdict` does not know."""
        return None if self.limit is None else verdict(self.total, self.limit, self.left_out)


def verdict(total: int, limit: int, left_out: Collection[str]) -> bool | None:
    """Whether `needed(total)` bytes fit; None if they do, and something was left out of them."""
    return False if needed(total) > limit else None if left_out else True


def needed(total: int) -> int:
    """Bytes that a device must have for an estimate of `total` bytes."""
    return ceil(total * (1 + MARGIN))


def plan(
    spec: PolicySpec,
    config: TrainConfig,
    *,
    devices: int = 1,
    limit: int | None = None,
    peak: float | None = None,
    utilization: float = 0.4,
    latents: bool = False,
) -> Plan:
    """What training `spec` takes on each of so many devices.

    A device has `limit` bytes and `peak` operations a second.
    """
    per_pass = max(1, config.batch_size // (devices * config.gradient_accumulation_steps))
    one = _work(spec, config, encodes=not latents)
    memory = on_each(one, config, devices, per_pass)
    total = one.operations * config.batch_size * config.steps
    days = None if peak is None else total / (devices * peak * utilization) / 86400
    hints: list[str] = []
    if limit is not None and needed(sum(memory.values())) > limit:
        hints = _hints(spec, config, devices, limit, latents)
    return Plan(memory, kept(spec), one.operations, days, limit, tuple(hints), one.left_out)


def on_each(one: Work, config: TrainConfig, devices: int, per_pass: int) -> dict[str, int]:
    """Bytes on each device, by what they are for."""
    shares = devices if config.parallelism == "fsdp" and devices > 1 else 1
    held = 4 * one.learned // shares
    memory = {
        "weights that learn": held,
        "weights at rest": one.resting,
        "gradients": held,
        "moments of AdamW": 2 * held,
        "average of weights": held if config.ema is not None else 0,
        "bfloat16 copies": 0,
        "gathered blocks": 16 * one.block if shares > 1 else 0,  # two, with their gradients
        "activations": one.activations * per_pass,
    }
    if config.precision == "bfloat16":
        count = one.learned + one.resting // 4
        memory["bfloat16 copies"] = 2 * (
            count // max(1, one.depth) if config.gradient_checkpointing else count
        )
    if config.parallelism == "ddp" and devices > 1:
        memory["buckets of gradients"] = held
    return {name: size for name, size in memory.items() if size}


def _work(spec: PolicySpec, config: TrainConfig, *, encodes: bool) -> Work:
    return work(
        spec,
        config.parts,
        config.precision,
        config.gradient_checkpointing,
        encodes=encodes,
        lora=config.lora,
    )


def _hints(
    spec: PolicySpec, config: TrainConfig, devices: int, limit: int, latents: bool
) -> list[str]:
    """Settings with which it would fit, the mildest first; else what none of them heals."""
    ways: list[dict[str, Any]] = []
    per_device = max(1, config.batch_size // devices)
    if config.precision == "float32":
        ways.append({"precision": "bfloat16"})
    ways.append({"gradient_checkpointing": True})
    if devices > 1:
        ways.append({"parallelism": "fsdp"})
    most = max(n for n in range(1, per_device + 1) if config.batch_size % (n * devices) == 0)
    ways.append({"gradient_accumulation_steps": most})
    tried: dict[str, Any] = {}
    counted: dict[tuple[str, bool], Work] = {}
    for way in ways:
        if all(getattr(config, key) == value for key, value in way.items()):
            continue
        tried |= way
        new = config.model_copy(update=tried)
        key = new.precision, new.gradient_checkpointing
        if key not in counted:
            counted[key] = _work(spec, new, encodes=not latents)
        one = counted[key]
        per_pass = max(1, new.batch_size // (devices * new.gradient_accumulation_steps))
        if needed(sum(on_each(one, new, devices, per_pass).values())) <= limit:
            words = " ".join(f"--train {key}={str(v).lower()}" for key, v in tried.items())
            return [f"it fits with {words}"]
    more = "more devices and parallelism=fsdp" if devices == 1 else "more devices"
    less = "let less learn (parts.backbone.freeze=true, or adapters: lora.rank=16)"
    return [f"take {more}, {less}, or a smaller one"]


def kept(spec: PolicySpec) -> int:
    """Bytes of the keys and values of what is closed when a chunk begins, for one robot."""
    traits, tokens = spec.backbone.traits, spec.tokens()
    sees = spec.paradigm.build().sees  # type: ignore[attr-defined]
    present = {role for role, count in tokens.items() if count}
    if traits.text != "stream":
        present.discard("text")  # words have no keys of their own in the stream
    if traits.text_follows:  # words change with the target frames that acting passes, if any
        acting = {role for stage in program_of(spec) for role in stage.roles}
        sees = followed(sees, acting)
        present -= {"target"} - acting
    closed = cacheable_subset(present & {"text", "context", "state"}, sees, present)
    count = sum(tokens[role] for role in closed)
    size = DTYPES[spec.dtype].itemsize
    return 2 * traits.depth * traits.num_kv_heads * traits.head_dim * count * size


def work(
    spec: PolicySpec,
    parts: Parts | None = None,
    precision: str = "float32",
    recompute: bool = False,
    *,
    encodes: bool = True,
    lora: Lora | None = None,
) -> Work:
    """What a sample of `spec` takes; the text encoder is left out. `encodes`: the VAE is used."""
    parts = parts or Parts()
    vae = vae_on_meta(spec)
    with torch.device("meta"):
        backbone = without_weights(spec.backbone).build()
        head = without_weights(spec.action_head).build(spec.sizes)
        adapter = None
        if spec.vae.adapter == "linear":
            adapter = LatentAdapter(spec.vae.channels, spec.backbone.traits.latent_channels)
    built = {"backbone": backbone, "action_head": head}
    for kind, module in built.items():
        module.requires_grad_(not getattr(parts, kind).freeze)
    if adapter is not None:
        adapter.requires_grad_(not parts.latent_adapter.freeze)
    if lora is not None:
        with torch.device("meta"):
            Adapters({kind: built[kind] for kind in lora.parts}, lora, 0)
    for module in built.values():
        module.to(DTYPES[precision])
    modules = [m for m in (backbone, head, adapter) if isinstance(m, nn.Module)]
    every = {p for module in modules for p in module.parameters()}
    seen = backbone if adapter is None else AdaptedBackbone(backbone, adapter)
    runner = PassRunner()
    inputs = head.prepare(
        zero_inputs(spec, head, chunks=spec.paradigm.chunks_per_sample, sigma=0.0)
    )
    paradigm = spec.paradigm.build()  # type: ignore[attr-defined]
    meter = Meter(every)
    with _fused(meter), meter:
        noisy, goal = paradigm.add_noise(inputs, schedules_of(spec), torch.Generator())
        runner.recompute = recompute
        found = head.join(runner, seen, noisy, noisy.sees or paradigm.sees)
        total = torch.stack(
            [v.float().sum() for p in goal if (v := _velocity(found, p)) is not None]
        ).sum()
        total.backward()
    operations = meter.operations
    if encodes:
        operations += count_encoding(spec, vae, spec.num_images).operations
    learned = sum(prod(p.shape) for p in every if p.requires_grad)
    resting = sum(4 * prod(p.shape) for p in every if not p.requires_grad)
    left_out = [f"vae: {vae}"] if isinstance(vae, str) else []
    for frozen in (vae, conditioner_on_meta(spec, left_out)):
        if isinstance(frozen, nn.Module):
            resting += sum(p.numel() * p.element_size() for p in frozen.parameters())
    blocks = [
        sum(p.numel() for p in block.parameters() if p.requires_grad)
        for block in backbone.blocks
        if isinstance(block, nn.Module)
    ]
    depth = len(backbone.blocks)
    largest = max(blocks, default=0)
    return Work(operations, meter.most, learned, resting, largest, depth, tuple(left_out))


def _velocity(found: Any, part: str) -> Tensor | None:
    if part == "video":
        return found.video if found.future is None else found.future  # type: ignore[no-any-return]
    return getattr(found, part)  # type: ignore[no-any-return]


class Meter(LiveBytes):
    """Counts operations, and the bytes that are alive besides some parameters and gradients."""

    def __init__(self, parameters: set[nn.Parameter]) -> None:
        super().__init__(parameters)
        for p in parameters:
            if p.requires_grad:
                p.register_post_accumulate_grad_hook(_forget)


def _forget(p: Tensor) -> None:
    """Gradients are counted by themselves."""
    p.grad = None


@contextmanager
def _fused(meter: Meter) -> Iterator[None]:
    """Within, attention is one operation, as fused kernels do it, also when layers run again."""
    plain = F.scaled_dot_product_attention

    def attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, **options: Any) -> Tensor:
        return _Attention.apply(q, k, v, meter)  # type: ignore[no-any-return]

    F.scaled_dot_product_attention = attention  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = plain


class _Attention(torch.autograd.Function):
    """Softmax attention without numbers: what it keeps, and how many operations it takes."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, meter: Meter) -> Tensor:
        """[..., S, E] and [..., S', E] to [..., S, E]."""
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        ctx.meter = meter
        ctx.operations = 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        meter.operations += ctx.operations
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of the three, in their shapes."""
        ctx.meter.operations += ctx.operations * 5 // 2
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v), None
