"""`wamkit estimate --act`, and what it shares with `wamkit fit`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WamkitError, did_you_mean
from ._folding import brief, counted
from ._output import emit, note, say, show_table, spinner, table
from ._sources import resolve_source
from .check import specs_of
from .compare import unique_names

if TYPE_CHECKING:
    from ..train.acting import Device, Estimate
    from ..train.config import TrainConfig

USUAL = ("h100", "rtx4090")
"""Devices of which times are given where none is named."""
HERE = "here"


def show_acting(
    paths: Sequence[Path],
    gpus: Sequence[str],
    batch: int,
    overrides: list[str],
    idle: Mapping[str, Any],
    json: bool,
) -> None:
    """Print what acting takes, spec by spec. Raises WamkitError for an option without meaning."""
    for option, given in idle.items():
        if given:
            raise WamkitError(f"{option} has no meaning with --act", "leave it out")
    for name in gpus:
        if name != HERE:
            known_gpu(name)
    specs = specs_of(
        [resolve_source(path) for path in paths], overrides, ("backbone", "action_head")
    )
    from ..train.acting import estimate_acting

    made: dict[str, Estimate] = {}
    devices = _devices(gpus or USUAL)
    for name, spec in zip(unique_names(paths), specs, strict=True):
        for mode, options in spec.paradigm.variants.items():
            label = f"{name}, {mode}" if mode else name
            with spinner(f"counting {label}"):
                made[label] = estimate_acting(
                    spec, batch=batch, devices=devices, act_options=options
                )
    if json:
        emit({"batch": batch, "acting": {name: asdict(one) for name, one in made.items()}})
        return
    for number, (name, one) in enumerate(made.items()):
        say("\n" * bool(number) + name, "bold")
        _draw(one, list(devices))


def known_gpu(name: str) -> None:
    """Raise WamkitError if nothing is known of a device of this name."""
    from ..train.devices import PEAKS

    if name not in PEAKS:
        hint = did_you_mean(name, list(PEAKS), f"known are {', '.join(PEAKS)}")
        raise WamkitError(f"no numbers of a device called {name!r}", hint)


def expect_divisible(chosen: TrainConfig, devices: int) -> None:
    """Raise WamkitError if a batch cannot be cut into devices and passes."""
    parts = devices * chosen.gradient_accumulation_steps
    if chosen.batch_size % parts:
        raise WamkitError(
            f"a batch of {chosen.batch_size} cannot be cut into {devices} devices x "
            f"{chosen.gradient_accumulation_steps} passes",
            f"--batch {-(-chosen.batch_size // parts) * parts}",
        )


def _devices(names: Sequence[str]) -> dict[str, Device]:
    """Known devices by name; `here` is measured."""
    import torch

    from ..bench.machine import measure_roofline
    from ..train.devices import PEAKS

    return {
        name: measure_roofline(torch.device("cpu"), torch.float32) if name == HERE else PEAKS[name]
        for name in names
    }


def _draw(one: Estimate, devices: Sequence[str]) -> None:
    times = [f"{name} ms >=" for name in devices]
    columns = ["weights GB", "cache MB", "activations MB", "total GB", *times]
    made = table("precision", *columns, right=columns, keep=("precision",))
    for row in one.rows:
        spent = [row.milliseconds[name] for name in devices]
        made.add_row(
            row.precision,
            brief(sum(row.weights.values()) / 1e9),
            brief(row.cache / 1e6),
            brief(row.activations / 1e6),
            ">= " * bool(one.left_out) + brief(row.total / 1e9),
            *("-" if ms is None else brief(ms) for ms in spent),
        )
    show_table(made)
    for row in one.rows:
        say(f"{row.precision}: `{row.options}`")
    parts = one.rows[0]
    shares = ", ".join(f"{kind} {brief(size / 1e9)}" for kind, size in parts.weights.items())
    say(f"weights in {parts.precision}, GB: {shares}")
    say(
        f"a chunk: {counted(parts.passes, 'pass', 'passes')}, "
        f"{brief(parts.operations / 1e12)} TFLOP, {brief(parts.bytes_moved / 1e9)} GB moved "
        f"in {parts.precision}"
    )
    for precision, why in one.unsupported.items():
        note(f"{precision}: {why}")
    for line in one.left_out:
        note(line)
    say("assumed:")
    for line in one.assumptions:
        say(f"  {line}")
