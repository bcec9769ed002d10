"""Which policies act or train in so much memory, and which settings make others fit.

Only settings that exist are proposed, and each proposal is an estimate made again with it. What
fits has room for the estimate and for `MARGIN` more.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import combinations
from typing import Any

from ..config.spec import PolicySpec
from ..policy.footprint import Footprint, footprint
from .acting import Precision, acting
from .config import Lora, TrainConfig
from .plan import Work, needed, on_each, verdict, work

DEVICES = (2, 4, 8)
"""How many devices are tried with FSDP where one is too small."""


@dataclass(frozen=True)
class Fit:
    """Whether a policy acts, or trains, in so much memory."""

    task: str
    """`act` or `train`."""
    total: int
    """Bytes on each device, as it is, without the margin."""
    fits: bool | None
    """None if what was counted has room, and something was not counted: `left_out`."""
    proposal: tuple[str, ...] = ()
    """Options that make it fit, the fewest that were found; empty if it fits, or if none do."""
    proposed_total: int | None = None
    """Bytes with the proposal, without the margin."""
    least: int | None = None
    """The least bytes that any of the tried settings needs, where none makes it fit."""
    left_out: tuple[str, ...] = ()
    """What is not counted, and why."""


def fit_acting(spec: PolicySpec, limit: int, batch: int = 1, quantize: str = "none") -> Fit:
    """Whether `spec` acts in `limit` bytes, for `batch` observations at once, quantized or not.

    Of a paradigm with several variants, the one that takes most counts.

    Tried are bfloat16, a VAE in bfloat16, precomputed text and 8-bit weights, the fewest first.
    """
    known: dict[tuple[str, str], list[Footprint]] = {}

    def total(names: tuple[str, ...]) -> int:
        dtype = "bfloat16" if "dtype" in names else spec.dtype
        vae = "bfloat16" if "vae" in names else spec.vae.dtype
        if (dtype, vae) not in known:
            part = spec.vae.model_copy(update={"dtype": vae})
            made = spec.model_copy(update={"dtype": dtype, "vae": part})
            variants = spec.paradigm.variants.values()
            known[dtype, vae] = [footprint(made, **options) for options in variants]
        every = known[dtype, vae]
        if "text" in names:
            every = [replace(one, weights=_without_text(one.weights)) for one in every]
        kind = "int8" if "quantize" in names else quantize if every[0].rounded else "none"
        precision = Precision(dtype, dtype, kind)
        return max(acting(spec, one, precision, batch, {}).total for one in every)

    now, first = total(()), known[spec.dtype, spec.vae.dtype][0]
    uncounted = {line.partition(":")[0] for line in first.left_out}
    fits = verdict(now, limit, first.left_out)
    if fits:
        return Fit("act", now, True)
    settings = {
        "dtype": "--set dtype=bfloat16",
        "vae": "--set vae.dtype=bfloat16",
        "text": "--set text_encoder.embeddings_file=FILE",
        "quantize": "--quantize int8",
    }
    if spec.dtype == "bfloat16":
        del settings["dtype"]
    if spec.vae.dtype == "bfloat16" or not first.weights.get("vae"):
        del settings["vae"]
    if not first.weights.get("text_encoder") and "text_encoder" not in uncounted:
        del settings["text"]
    if not first.rounded or quantize != "none":
        del settings["quantize"]
    least = now
    for size in range(1, len(settings) + 1):
        for names in combinations(settings, size):
            if uncounted - ({"text_encoder"} if "text" in names else set()):
                continue  # what it needs is not known
            if needed(found := total(names)) <= limit:
                typed = tuple(settings[name] for name in names)
                return Fit("act", now, fits, typed, found, left_out=first.left_out)
            least = min(least, found)
    return Fit("act", now, fits, least=least, left_out=first.left_out)


def _without_text(weights: dict[str, int]) -> dict[str, int]:
    return {kind: size for kind, size in weights.items() if kind != "text_encoder"}


Settings = dict[str, Any]
"""Fields of a `TrainConfig` that change, and `devices`."""


def fit_training(spec: PolicySpec, limit: int, config: TrainConfig, devices: int = 1) -> Fit:
    """Whether `spec` trains in `limit` bytes on each of so many devices.

    Tried are bfloat16, gradient checkpointing, FSDP where there are several devices, more passes of
    smaller batches, LoRA, a frozen backbone, and FSDP on more devices; of those that together
    suffice, each that can be spared is left out again.
    """
    known: dict[Any, Work] = {}

    def counted(made: TrainConfig) -> Work:
        key = made.precision, made.gradient_checkpointing, made.lora, made.parts
        if key not in known:
            options = partial(work, encodes=False, lora=made.lora)
            known[key] = options(spec, made.parts, made.precision, made.gradient_checkpointing)
        return known[key]

    def total(settings: Settings) -> int:
        count = settings.get("devices", devices)
        update = {k: v for k, v in settings.items() if k != "devices"}
        made = config.model_copy(update=update)
        each = max(1, made.batch_size // (count * made.gradient_accumulation_steps))
        return sum(on_each(counted(made), made, count, each).values())

    now = total({})
    left_out = counted(config).left_out
    fits = verdict(now, limit, left_out)
    if fits or left_out:
        return Fit("train", now, fits, left_out=left_out)
    least, last = now, Settings()
    for last in _less_and_less(config, devices):
        if needed(found := total(last)) <= limit:
            for name in reversed(list(last)):
                rest = {k: v for k, v in last.items() if k != name}
                if name != "devices" and needed(less := total(rest)) <= limit:
                    last, found = rest, less
            typed = _typed(last)
            return Fit("train", now, False, typed, found)
        least = min(least, found)
    return Fit("train", now, False, least=least)


def _less_and_less(config: TrainConfig, devices: int) -> Iterator[Settings]:
    """Settings that need less and less memory, each with all before it that go with it."""
    base: Settings = {}
    if config.precision == "float32":
        yield (base := base | {"precision": "bfloat16"})
    if not config.gradient_checkpointing:
        yield (base := base | {"gradient_checkpointing": True})
    if devices > 1 and config.parallelism != "fsdp":
        yield (base := base | {"parallelism": "fsdp"})
    if (passes := _most_passes(config, devices)) > config.gradient_accumulation_steps:
        yield (base := base | {"gradient_accumulation_steps": passes})
    if config.lora is None and find_spec("peft") is not None:
        yield base | {"lora": Lora(rank=16)}
    if not config.parts.backbone.freeze:
        rests = config.parts.backbone.model_copy(update={"freeze": True})
        yield base | {"parts": config.parts.model_copy(update={"backbone": rests})}
    for count in DEVICES:
        if count > devices and config.batch_size % count == 0:
            passes = _most_passes(config, count)
            more = {"gradient_accumulation_steps": passes} if passes > 1 else {}
            rest = {k: v for k, v in base.items() if k != "gradient_accumulation_steps"}
            yield {**rest, **more, "parallelism": "fsdp", "devices": count}


def _most_passes(config: TrainConfig, devices: int) -> int:
    """The most passes of an update, such that each is of at least one sample on each device."""
    room = range(1, max(1, config.batch_size // devices) + 1)
    return max(n for n in room if config.batch_size % (n * devices) == 0 or n == 1)


def _typed(settings: Settings) -> tuple[str, ...]:
    """The options of `wamkit estimate` and `wamkit train` for settings."""
    options = []
    for name, value in settings.items():
        if name == "devices":
            options.append(f"--devices {value}")
        elif name == "lora":
            options.append(f"--train lora.rank={value.rank}")
        elif name == "parts":
            options.append("--train parts.backbone.freeze=true")
        else:
            options.append(f"--train {name}={str(value).lower()}")
    return tuple(options)
