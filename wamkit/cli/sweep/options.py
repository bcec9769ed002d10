"""From what is typed after `--` to the command line of each cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...config.runs import is_folder
from ...errors import WamkitError
from .grid import TRAINING, Axis, Point
from .records import SPEC
from .runs import RUN

OWN = {
    "--out": "give the sweep a folder: --out DIR before the `--`",
    "--set": "set it for all cells: --set KEY=VALUE before the `--`",
    "--resume": "leave it out: the same command goes on with what is not finished",
    "--json": "leave it out: every cell is asked for JSON; --json before the `--` prints all",
    "--help": "type `wamkit {verb} --help`",
    "-h": "type `wamkit {verb} --help`",
}
"""Options that the sweep sets itself -> what to type."""


def expect_options(verb: str, source: Path, axes: Sequence[Axis], args: Sequence[str]) -> None:
    """Raise WamkitError unless `wamkit VERB` would take these args after its first arguments.

    Nothing is run, and no file is looked for but the policy that `eval` may play.
    """
    training = [axis.key for axis in axes if axis.key.startswith(TRAINING)]
    if training and verb == "bench":
        raise WamkitError(
            f"{training[0]} is a training setting, and bench trains nothing",
            "leave it out, or --run train",
        )
    for word in args:
        option = word.partition("=")[0]
        if option in OWN:
            raise WamkitError(
                f"{option} after `--` is set by the sweep itself", OWN[option].format(verb=verb)
            )
    if verb == "check":
        if others := [word for word in args if word != "--tiny"]:
            raise WamkitError(
                f"--run check takes no option but --tiny, found {' '.join(others)}",
                "name what is to be run: --run train, bench or eval",
            )
        return
    from .. import verb as command_of

    place = Path("cell")
    typed = _command_line(verb, source, place, [], ["x=1"] if training else [], args)
    command: Any = command_of(verb)
    try:
        command.make_context(f"wamkit {verb}", typed).close()
    except Exception as error:
        if not hasattr(error, "format_message"):  # a usage error of the command line
            raise
        raise WamkitError(
            f"wamkit {verb} does not take the options after `--`: {error.format_message()}",
            f"see `wamkit {verb} --help`; for example -- {EXAMPLES[verb]}",
        ) from None


EXAMPLES = {
    "train": "--data recordings/cups --steps 1000 --batch 8",
    "bench": "--tiny --iters 20",
    "eval": "--env metaworld:button-press-topdown-v3 --episodes 20",
}


def args_of(
    verb: str,
    source: Path,
    folder: Path,
    point: Point,
    overrides: Sequence[str],
    args: Sequence[str],
) -> list[str]:
    """What is typed after `wamkit VERB` for the cell of `point` in `folder`."""
    changes = [*overrides, *point.overrides]
    return _command_line(verb, source, folder, changes, point.training, args)


def _command_line(
    verb: str,
    source: Path,
    folder: Path,
    changes: Sequence[str],
    training: Sequence[str],
    args: Sequence[str],
) -> list[str]:
    if is_folder(source):  # a saved policy keeps its weights; what varies is set on it
        sets = [word for change in changes for word in ("--set", change)]
        typed = [str(source), *sets]
    else:
        typed = [str(folder / RUN if verb == "eval" else folder / SPEC)]
    if verb == "train":
        typed += ["--out", str(folder / RUN)]
        typed += [word for setting in training for word in ("--train", setting)]
    return [*typed, *args]
