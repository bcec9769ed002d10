"""`wamkit estimate`: what training or acting takes, before a device is rented."""

from __future__ import annotations

from math import floor, log10
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import WamkitError
from ._acting import expect_divisible, known_gpu, show_acting
from ._completion import complete_gpu_or_here
from ._folding import brief, counted, duration
from ._options import Json, Overrides, Specs, TrainConfigFile, TrainSettings
from ._output import FOUND, emit, note, say, show_table, spinner, table
from ._sources import resolve_source
from .check import specs_of

if TYPE_CHECKING:
    from ..train.config import TrainConfig
    from ..train.plan import Plan

EXAMPLE = "wamkit estimate examples/fastwam.toml --devices 8 --gpu h100 --batch 128 --steps 20000"
UNITS = {"GB": 1e9, "GiB": 2**30, "MB": 1e6, "MiB": 2**20, "TB": 1e12}


def command(
    specs: Specs,
    act: Annotated[
        bool, typer.Option("--act", help="What acting takes, in each precision, of every SPEC.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, help="How many there are.")] = 1,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of each, such as 80GB; else the GPU's own.")
    ] = None,
    gpu: Annotated[
        list[str] | None,
        typer.Option(
            help="Such as h100, h200, a100, b200, l40s, rtx4090: its peak and memory. With --act "
            "may be repeated; `here` measures this machine's CPU.",
            autocompletion=complete_gpu_or_here,
        ),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1, help="Samples of one update, over all devices; with --act, observations."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Updates of the weights.")] = None,
    samples: Annotated[
        int | None, typer.Option(min=1, help="Samples in all, in place of --steps.")
    ] = None,
    config: TrainConfigFile = None,
    settings: TrainSettings = None,
    utilization: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the peak that is reached.")
    ] = 0.4,
    latents: Annotated[
        bool, typer.Option("--latents", help="The VAE's latents are stored beforehand.")
    ] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Count memory, operations and days of a training run, without weights or a device.

    With --memory or --gpu it says whether it fits, with 10 % to spare, and what to change (exit
    code 1 if it does not).
    The text encoder is left out: instructions are encoded once, see `wamkit precompute text`.

    With --act it counts memory and the least time of a chunk. Exact are bytes of weights, sizes of
    the KV cache and operations; approximate are activations (tensors alive at the worst moment,
    without kernels' workspaces) and times (floors by the roofline of a device's data sheet).
    """
    from ..train.config import read_config
    from ..train.devices import PEAKS

    if act:
        idle = {
            "--devices": devices != 1,
            "--memory": memory,
            "--steps": steps,
            "--samples": samples,
            "--config": config,
            "--train": settings,
            "--latents": latents,
        }
        show_acting(specs, gpu or [], batch or 1, overrides or [], idle, json)
        return
    if len(specs) != 1 or len(gpu or ()) > 1:
        several = "specs" if len(specs) != 1 else "devices"
        raise WamkitError(
            f"an estimate of training is of one policy on one kind of device, and {several} are "
            "several",
            "name one; --act takes several, and so does `wamkit fit`",
        )
    spec, gpu_name = specs[0], next(iter(gpu or ()), None)
    if gpu_name is not None:
        known_gpu(gpu_name)
    if samples is not None and steps is not None:
        raise WamkitError("--samples and --steps both say how long", "leave one out")
    typed = {"steps": steps, "batch_size": batch}
    given = [f"{name}={value}" for name, value in typed.items() if value is not None]
    chosen = read_config(config, [*(settings or []), *given])
    if samples is not None:
        count = -(-samples // chosen.batch_size)
        chosen = chosen.model_copy(update={"steps": count})
    expect_divisible(chosen, devices)
    limit = None if memory is None else size_of(memory)
    peak = chosen.peak_flops
    if gpu_name is not None:
        limit = limit or int(PEAKS[gpu_name].memory)
        peak = peak or getattr(PEAKS[gpu_name], chosen.precision)
    (policy,) = specs_of(
        [resolve_source(spec)], overrides or [], needed=("backbone", "action_head")
    )
    from ..train.plan import plan

    with spinner(f"counting {spec}"):
        made = plan(
            policy,
            chosen,
            devices=devices,
            limit=limit,
            peak=peak,
            utilization=utilization,
            latents=latents,
        )
    assumed = _assumed(chosen, devices, utilization, latents)
    if json:
        emit({**vars(made), "total": made.total, "fits": made.fits, "assumptions": assumed})
    else:
        _draw(made, devices, gpu_name, utilization, assumed)
    if limit is not None and not made.fits:
        raise typer.Exit(FOUND)


def _assumed(chosen: TrainConfig, devices: int, utilization: float, latents: bool) -> list[str]:
    """What an estimate of training takes for granted."""
    from ..train.plan import MARGIN

    return [
        f"batch {chosen.batch_size} on {counted(devices, 'device')}, "
        f"{counted(chosen.gradient_accumulation_steps, 'pass', 'passes')} an update, "
        f"{counted(chosen.steps, 'step')}, {chosen.precision}, {chosen.parallelism}",
        f"{utilization:.0%} of the peak is reached; the VAE's latents are "
        + ("stored beforehand" if latents else "computed in every step"),
        "exact: weights, gradients, moments, operations; approximate: activations, which are what "
        "is alive at the worst moment, without kernels' workspaces and fragments; what fits has "
        f"room for {MARGIN:.0%} more",
    ]


def size_of(text: str) -> int:
    """`80GB` as bytes."""
    for unit in sorted(UNITS, key=len, reverse=True):
        number = text.strip().removesuffix(unit)
        if number != text.strip():
            try:
                if (size := float(number) * UNITS[unit]) > 0:
                    return int(size)
            except ValueError:
                break
    raise WamkitError(f"{text!r} is no size", f"for example 80GB; units: {', '.join(UNITS)}")


def _draw(
    made: Plan, devices: int, gpu: str | None, utilization: float, assumed: list[str]
) -> None:
    from ..train.plan import MARGIN, needed

    shown = table("on each device", "GB", right=("GB",))
    digits = max(2, 2 - floor(log10(max(made.total, 1) / 1e9)))
    for name, size in (made.memory | {"total": made.total}).items():
        shown.add_row(name, f"{size / 1e9:.{digits}f}")
    show_table(shown)
    say(f"{brief(made.operations / 1e12)} TFLOP a sample, there and back")
    if made.days is not None:
        long = duration(86400 * made.days)
        say(f"{long} on {devices} x {gpu or 'device'} at {utilization:.0%} of the peak")
    say(f"keys and values kept while acting: {brief(made.acting / 1e6)} MB a robot")
    if made.limit is not None:
        verdict = "it fits" if made.fits else "it does not fit"
        if made.fits is None:
            verdict = "it is not known whether all of it fits"
        room = f"{needed(made.total) / 1e9:.{digits}f}"
        say(f"{verdict} into {made.limit / 1e9:.0f} GB: {MARGIN:.0%} more are {room} GB", "bold")
    for part in made.left_out:
        note(part)
    say("assumed:")
    for line in assumed:
        say(f"  {line}")
    for hint in made.hints:
        say(f"hint: {hint}")
