"""`wamkit train`: teach a policy from a data set, on one machine or many."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import runs
from ._completion import complete_folder
from ._folding import unbroken
from ._imagined import describe_means
from ._options import (
    Column,
    Device,
    Json,
    Overrides,
    Source,
    Tiny,
    Tolerance,
    TrainConfigFile,
    TrainSettings,
)
from ._output import INTERRUPTED, console, emit, note, say
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..train.trainer import Summary

EXAMPLE = "wamkit train spec.toml --data recordings/cups --out runs/cups --steps 20000 --batch 32"


def command(
    source: Source,
    data: Annotated[
        Path,
        typer.Option(
            metavar="DIR",
            help="LeRobot data set to train on.",
            autocompletion=complete_folder,
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="RUN", help="Folder of the run.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Number of optimizer updates.")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Global batch size, over all processes.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    config: TrainConfigFile = None,
    settings: TrainSettings = None,
    logger: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Besides log.jsonl: tensorboard, trackio or wandb; may be repeated.",
        ),
    ] = None,
    tiny: Tiny = False,
    overrides: Overrides = None,
    column: Column = None,
    latents: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Latents of `wamkit precompute latents`.")
    ] = None,
    tolerance: Tolerance = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the run in RUN exactly.")
    ] = False,
    workers: Annotated[int, typer.Option(min=0, help="Data worker processes.")] = 0,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Train a policy on recordings, from a spec or from a saved one.

    RUN/checkpoints/last/policy can be used at any time meanwhile, and so can best/policy if
    episodes are held out.

    Ctrl-C or SIGTERM ends with a checkpoint (exit code 130); --resume continues as if nothing had
    happened. On several devices: torchrun --nproc-per-node 8 -m wamkit train ... --device cuda
    """
    from ..train import read_config

    typed = {"steps": steps, "batch_size": batch, "lr": lr, "tolerance": tolerance}
    given = [f"{name}={value}" for name, value in typed.items() if value is not None]
    if logger:
        given.append(f"loggers={[name for names in logger for name in names.split(',')]}")
    chosen = read_config(config, [*(settings or []), *given])
    from ..data import Columns
    from ..train.trainer import Data, train
    from ._inputs import at_toy_size, load_policy
    from ._inputs import chosen as chosen_spec

    first = int(os.environ.get("RANK", 0)) == 0
    source = resolve_source(source)
    changes: list[str] = []
    if tiny:
        spec, changes = at_toy_size(source, overrides or [])
    else:
        spec, _ = chosen_spec(source, overrides or [], tiny=False)
    policy, notes = load_policy(source, spec, "cpu", overrides or [], tiny=tiny, quiet=not first)
    notes = changes + notes
    if first and not json:
        for line in notes:
            note(line)
    source_data = Data(data, Columns.of(column or ()), latents, workers)
    with _Progress(chosen.steps, visible=first) as progress:
        done = train(
            policy,
            source_data,
            out,
            chosen,
            device=device,
            resume=resume,
            on_step=progress.on_step,
            note=note,
        )
    if first:
        _summary(done, out, json)
    if done.interrupted:
        raise typer.Exit(INTERRUPTED)


class _Progress:
    """A bar with the loss, on the terminal's stderr; a pipe sees nothing of it."""

    def __init__(self, steps: int, *, visible: bool) -> None:
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}", markup=False),
            console=console(stderr=True),
            transient=True,
            disable=not visible,
        )
        self._task = self._bar.add_task("training", total=steps, loss="")

    def __enter__(self) -> _Progress:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def on_step(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Show the metrics of an update."""
        parts = " ".join(f"{name} {value:.4f}" for name, value in metrics["parts"].items())
        self._bar.update(self._task, completed=step, loss=f"loss {metrics['loss']:.4f} ({parts})")


def _summary(done: Summary, out: Path, json: bool) -> None:
    if json:
        best = None if done.best is None else str(done.best)
        emit({**vars(done), "checkpoint": str(done.checkpoint), "best": best})
        return
    state = "interrupted" if done.interrupted else "done"
    loss = "" if done.loss is None else f", loss {done.loss:.4f}"
    say(f"{state} at step {done.step} after {done.seconds:.1f} s{loss}")
    reached = "" if done.utilization is None else f", {done.utilization:.1%} of the device's peak"
    say(
        f"{done.samples_per_second:.1f} samples/s, {done.tokens_per_second:,.0f} tokens/s, "
        f"{done.waiting:.0%} of the time waiting for data{reached}"
    )
    if done.imagined is not None:
        say(f"imagined held-out frames: {describe_means(done.imagined)}")
    drawn = out / "loss.svg"
    losses = drawn if drawn.exists() else out / runs.LOG
    say(f"the policy: {unbroken(done.checkpoint / 'policy')}; losses: {unbroken(losses)}")
    if done.best is not None:
        say(f"the best so far on held-out episodes: {unbroken(done.best / 'policy')}")
    else:
        note(f"nothing was validated, so none is the best: {out / 'checkpoints/last/policy'}")
    if done.utilization is None:
        note(
            "this device's peak is not known: --train measure_peak=true, or --train "
            "peak_flops=300e12"
        )
    if done.interrupted:
        say("go on with the same command and --resume")
