"""`wamkit fit`: which policies act or train in so much memory, and what makes others fit."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..errors import WamkitError
from ._acting import expect_divisible, known_gpu
from ._completion import complete_gpu
from ._folding import brief, counted
from ._options import Json, Overrides, Quantize, Specs, TrainConfigFile, TrainSettings
from ._output import FOUND, emit, note, say, show_table, spinner, table
from ._sources import resolve_source
from .check import specs_of
from .compare import unique_names
from .estimate import size_of

if TYPE_CHECKING:
    from ..train.fit import Fit

WORDS = {True: "yes", False: "no", None: "unknown"}
EXAMPLE = "wamkit fit --memory 24GB examples/fastwam.toml examples/toy.toml"


def command(
    specs: Specs,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Of each device, such as 24GB.")
    ] = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Such as h100 or rtx4090, in place of its memory.", autocompletion=complete_gpu
        ),
    ] = None,
    devices: Annotated[int, typer.Option(min=1, help="To train on.")] = 1,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Samples of one update, over all devices.")
    ] = None,
    observations: Annotated[int, typer.Option(min=1, help="Acted on at once.")] = 1,
    quantize: Quantize = "none",
    only: Annotated[
        Literal["act", "train"] | None, typer.Option(help="Look at one of the two alone.")
    ] = None,
    config: TrainConfigFile = None,
    settings: TrainSettings = None,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Say which policies act or train in so much memory, and what makes those fit that do not.

    Nothing is allocated. Weights, KV cache, gradients and moments are exact; activations are what
    is alive at the worst moment. What fits has room for 10 % more, which real runs need. Each
    proposal is options to type, and was estimated again with them. Exit code 1 if something does
    not fit as it is, or if a part could not be counted and the rest fits ("unknown").
    """
    from ..train.config import read_config
    from ..train.devices import PEAKS

    if (memory is None) == (gpu is None):
        raise WamkitError("how much memory is there?", "name one: --memory 24GB, or --gpu rtx4090")
    if gpu is not None:
        known_gpu(gpu)
    limit = int(PEAKS[gpu].memory) if gpu is not None else size_of(memory or "")
    given = [] if batch is None else [f"batch_size={batch}"]
    chosen = read_config(config, [*(settings or []), *given])
    expect_divisible(chosen, devices)
    paths = [resolve_source(path) for path in specs]
    policies = specs_of(paths, overrides or [], ("backbone", "action_head"))
    from ..train.fit import fit_acting, fit_training
    from ..train.plan import MARGIN

    found: dict[str, list[Fit]] = {}
    for name, policy in zip(unique_names(specs), policies, strict=True):
        found[name] = []
        with spinner(f"counting {name}"):
            if only != "train":
                found[name].append(fit_acting(policy, limit, observations, quantize))
            if only != "act":
                found[name].append(fit_training(policy, limit, chosen, devices))
    assumed = [
        f"{limit / 1e9:g} GB on each device; what fits has room for the estimate and {MARGIN:.0%} "
        "more, for kernels' workspaces, the context of CUDA and fragments",
        f"acting: {observations} observation{'s' * (observations > 1)} at once, in mode eager; see "
        "`wamkit estimate --act`",
        f"training: batch {chosen.batch_size} on {counted(devices, 'device')}, "
        f"{counted(chosen.gradient_accumulation_steps, 'pass', 'passes')} an update, "
        f"{chosen.precision}, {chosen.parallelism}; memory does not depend on the number of steps",
        "training: prompts are precomputed (`wamkit precompute text`), so that the text encoder is "
        "left out; precomputed latents save time and no memory, since the VAE stays loaded",
        "options are those of `act`, `estimate` and `train`; --devices N is torchrun "
        "--nproc-per-node N where a run is started",
        "acting: a text encoder is held in the dtype of its files, a published one without files "
        "in bfloat16",
        "there is no offloading of the VAE or the text encoder, so none is proposed",
    ]
    if json:
        rows = {name: [asdict(one) for one in fits] for name, fits in found.items()}
        emit({"limit": limit, "margin": MARGIN, "policies": rows, "assumptions": assumed})
    else:
        _draw(found, limit, assumed)
    if not all(one.fits for fits in found.values() for one in fits):
        raise typer.Exit(FOUND)


def _draw(found: dict[str, list[Fit]], limit: int, assumed: list[str]) -> None:
    from ..train.plan import MARGIN, needed

    more = f"GB + {MARGIN:.0%}"
    numbers = ("GB", more)
    made = table(
        "policy", "to", *numbers, "fits", right=numbers, keep=("policy", "to", "fits"), keys=2
    )
    for name, fits in found.items():
        for one in fits:
            least = ">= " * bool(one.left_out)
            sizes = [least + brief(size / 1e9) for size in (one.total, needed(one.total))]
            made.add_row(name, one.task, *sizes, WORDS[one.fits])
    show_table(made)
    for name, one in ((name, one) for name, fits in found.items() for one in fits):
        if not one.fits:
            say(f"{name} to {one.task}: {_proposed(one, limit)}")
    for name, fits in found.items():
        for line in dict.fromkeys(line for one in fits for line in one.left_out):
            note(f"{name}: {line}")
    say("assumed:")
    for line in assumed:
        say(f"  {line}")


def _proposed(one: Fit, limit: int) -> str:
    """What makes it fit, for people."""
    from ..train.plan import needed

    if one.proposed_total is None and one.left_out:
        parts = ", ".join(line.partition(":")[0] for line in one.left_out)
        return f"not known without the size of {parts}, which is not counted"
    if one.proposed_total is not None:
        sizes = [brief(size / 1e9) for size in (one.proposed_total, needed(one.proposed_total))]
        return f"{sizes[0]} GB, {sizes[1]} with the margin, with `{' '.join(one.proposal)}`"
    least: Any = one.least
    return (
        f"no setting makes it fit into {limit / 1e9:g} GB; with all that were tried it needs "
        f"{brief(needed(least) / 1e9)} GB, margin included: choose a smaller part"
    )
