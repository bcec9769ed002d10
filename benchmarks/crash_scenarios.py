"""What `crash_points.py` kills: commands, what is there before, and how their work is read.

A scenario that is added to `SCENARIOS` is tried as all the others are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

SPEC = Path(__file__).parent.parent / "tests" / "data" / "small.toml"
Command = list[object]


@dataclass(frozen=True)
class Scenario:
    """A command, in a folder `home` that everything is below."""

    verb: str
    prepare: Callable[[Path], object]
    """Makes what is there before."""
    command: Callable[[Path], Command | Callable[[], object]]
    """What is typed after `wamkit`, and killed; or a function that does what no verb does."""
    found: Callable[[Path], str]
    """One line that tells apart what a reader may find where the command writes; it reads all of
    it, as wamkit does. A WamkitError means that nothing usable is there."""
    again: Callable[[Path], Command | Callable[[], object]]
    """What is typed next; it must come to what the command comes to if nobody kills it."""
    between: Callable[[Path], Iterable[str]] = lambda home: ()
    """What may be found besides, of what an undisturbed command has left."""
    standing: bool = True
    """False if there is nothing before that could be lost."""


WARM = (
    "cloudpickle",
    "pyarrow.compute",
    "pyarrow.parquet",
    "rich.progress",
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "wamkit.cli.build",
    "wamkit.cli._inputs",
    "wamkit.cli.train",
    "wamkit.testing.dataset",
    "wamkit.train.trainer",
)


def warm(*more: str) -> None:
    """Import what the commands import, and `more`, so that a forked process need not."""
    for name in (*WARM, *more):
        import_module(name)
    import torch
    from PIL import Image

    from wamkit.config.spec import parse, read
    from wamkit.policy.policy import Policy

    Image.init()
    torch.set_num_threads(1)
    Policy.from_spec(parse(read(SPEC)), device="meta")


def digest(*places: Path) -> str:
    """A hash of the names and contents of files, and of all files in folders.

    Of safetensors it is the tensors, whatever the order of their header.
    """
    from safetensors.numpy import load_file

    found = hashlib.sha256()
    for place in places:
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if not file.is_file():
                continue
            found.update(f"{file.relative_to(place.parent)}\0".encode())
            if file.suffix != ".safetensors":
                found.update(file.read_bytes())
                continue
            for name, tensor in sorted(load_file(file).items()):
                found.update(f"{name} {tensor.dtype} {tensor.shape}\0".encode())
                found.update(tensor.tobytes())
    return found.hexdigest()[:16]


def recorded(home: Path) -> None:
    """A small data set."""
    from wamkit.config.spec import parse, read
    from wamkit.testing.training import recordings

    recordings(home / "data", parse(read(SPEC)))


def training(home: Path, steps: int, *more: object) -> Command:
    """A run with a checkpoint every two updates, the best of them, and images."""
    settings = ["save_every=2", "log_every=1", "val_fraction=0.3", "imagine_every=3", "ema=0.9"]
    settings += ["validation_batches=1", "schedule=constant"]
    chosen = [word for setting in settings for word in ("--train", setting)]
    command: Command = ["train", SPEC, "--data", home / "data", "--out", home / "run", "--batch", 2]
    return [*command, "--steps", steps, *chosen, *more]


def begun(home: Path) -> None:
    """A data set, and a run of two updates."""
    from wamkit.cli import app

    recorded(home)
    try:
        app([str(word) for word in training(home, 2)], prog_name="wamkit")
    except SystemExit as end:
        assert not end.code


def newest(home: Path) -> str:
    """The newest checkpoint of the run, read as `--resume` and `act` read it."""
    from wamkit.config import runs

    every = runs.finished(home / "run" / "checkpoints")
    if not every:
        return "no checkpoint"
    loaded(runs.find(home / "run").policy)
    return checkpoint(every[-1][1])


def loaded(policy: Path) -> None:
    """Read a saved policy. Raises WamkitError if that cannot be done."""
    from wamkit.policy.policy import Policy

    Policy.load(policy)


def checkpoint(place: Path) -> str:
    """A checkpoint, all files of it."""
    return f"{place.name} {digest(place / 'state', place / 'policy', place / 'run.json')}"


def checkpoints(home: Path) -> Iterable[str]:
    """Every checkpoint of a run that was not disturbed."""
    from wamkit.config import runs

    for _, place in runs.finished(home / "run" / "checkpoints"):
        yield checkpoint(place)


def resumed(steps: int) -> Callable[[Path], Command]:
    """The command that goes on with a run, if anything of one is there."""
    return lambda home: training(home, steps, *(["--resume"] if (home / "run").exists() else []))


SCENARIOS = (
    Scenario(
        "train",
        prepare=recorded,
        command=lambda home: training(home, 4),
        found=newest,
        again=resumed(4),
        between=checkpoints,
        standing=False,
    ),
    Scenario(
        "resume",
        prepare=begun,
        command=lambda home: training(home, 4, "--resume"),
        found=newest,
        again=resumed(4),
        between=checkpoints,
    ),
)
