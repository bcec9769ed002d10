"""`wamkit compare`: several specs in one table: sizes, work per chunk, latency at toy size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import SpecError, WamkitError
from ..spec import PolicySpec, parse, read
from .check import conflicts_of
from .folding import brief
from .options import Device, Json, Overrides
from .output import busy, emit, note, say, show_table, table

EXAMPLE = "wamkit compare examples/fastwam.toml examples/fastwam_joint.toml --plot compare.svg"


@dataclass(frozen=True)
class Row:
    """One spec, run one way."""

    name: str
    parameters: dict[str, int]  # kind -> count, of what runs for every chunk
    tokens: dict[str, int]
    passes: int
    operations: int
    bytes_moved: int  # read from memory and written to it
    milliseconds: float | None  # of one chunk at toy size, median

    @property
    def total(self) -> int:
        """All parameters that run for every chunk."""
        return sum(self.parameters.values())


def command(
    specs: Annotated[list[Path], typer.Argument(metavar="SPEC...", help="Two or more specs.")],
    plot: Annotated[Path | None, typer.Option(help="A picture to write, .svg.")] = None,
    measure: Annotated[
        bool, typer.Option(help="Time a chunk at toy size on this machine as well.")
    ] = True,
    overrides: Overrides = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Compare specs: parameters, tokens, passes, operations and bytes of a chunk, and its latency.

    Sizes and work are those of the specs themselves, counted without a weight; the latency is that
    of the same compositions at toy size, random weights, on this machine. Text encoders are left
    out: they run once for an instruction.
    """
    if plot is not None and plot.suffix != ".svg":
        raise WamkitError(f"{plot} is not .svg", "choose a name that ends in .svg")
    rows: list[Row] = []
    for path in specs:
        found = [c for c in conflicts_of(path, overrides or [], tiny=False) if not c.missing]
        if found:
            raise SpecError(found, str(path))
        spec = parse(read(path, overrides or []), str(path))
        with busy(f"counting {path.stem}"):
            rows += compared(spec, path.stem, device if measure else None)
    if plot is not None:
        from ..chart import bars, write

        write(plot, bars(_series(rows)))
    if json:
        emit([{**vars(row), "total": row.total} for row in rows])
        return
    _draw(rows)
    if measure:
        note(f"ms: one chunk at toy size on {device}, median of 5; see `wamkit bench` for more")
    if plot is not None:
        say(f"wrote {plot}", whole=True)


def compared(spec: PolicySpec, name: str, device: str | None) -> list[Row]:
    """One row for each way that the spec's paradigm can go; timed on `device` if there is one."""
    from ..cost import cost
    from .meta import parameters

    sizes = {}
    for kind in ("backbone", "vae", "action_head"):
        count = parameters(getattr(spec, kind), spec.sizes)
        sizes[kind] = count if isinstance(count, int) else 0
    tokens = {role: count for role, count in spec.tokens().items() if count}
    rows = []
    for mode, choices in spec.paradigm.modes.items():
        spent = cost(spec, **choices)
        took = None if device is None else milliseconds(spec, device, choices)
        label = f"{name}, {mode}" if mode else name
        rows.append(Row(label, sizes, tokens, spent.passes, spent.operations, spent.bytes, took))
    return rows


def milliseconds(spec: PolicySpec, device: str, choices: Mapping[str, Any]) -> float:
    """Median of five chunks of the same composition at toy size, after one that is not counted."""
    from statistics import median
    from time import perf_counter

    from ..policy import Policy
    from ..trial import observation

    small = spec.tiny()[0]
    policy = Policy.from_spec(small, device=device)
    seen, times = observation(small, batch=1, frames=small.video.context), []
    for _ in range(6):
        begin = perf_counter()
        policy.act(seen, seed=0, **choices)
        times.append(1000 * (perf_counter() - begin))
    return median(times[1:])


def _draw(rows: list[Row]) -> None:
    heads = ("backbone", "VAE", "head", "tokens", "passes", "TFLOP", "GB moved", "ms")
    made = table("spec", *heads, right=heads, keep=("spec",))
    for row in rows:
        sizes = [_count(row.parameters[kind]) for kind in ("backbone", "vae", "action_head")]
        video = row.tokens.get("context", 0) + row.tokens.get("target", 0)
        numbers = sum(row.tokens.values()) - video - row.tokens.get("text", 0)
        took = "" if row.milliseconds is None else f"{row.milliseconds:.1f}"
        made.add_row(
            row.name,
            *sizes,
            f"{video} + {numbers}",
            str(row.passes),
            brief(row.operations / 1e12),
            brief(row.bytes_moved / 1e9),
            took,
        )
    show_table(made)
    say("tokens: of frames + of numbers; the rest: of one chunk, the VAE's included")
    say("GB moved: what is read from and written to memory, which is not how much it has to hold")


def _count(parameters: int) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= size:
            return f"{brief(parameters / size)}{letter}"
    return str(parameters)


def _series(rows: list[Row]) -> dict[str, dict[str, float]]:
    series = {
        "parameters, billions": {row.name: row.total / 1e9 for row in rows},
        "TFLOP a chunk": {row.name: row.operations / 1e12 for row in rows},
        "GB moved a chunk": {row.name: row.bytes_moved / 1e9 for row in rows},
    }
    times = {row.name: row.milliseconds for row in rows if row.milliseconds is not None}
    return {**series, "ms a chunk at toy size": times} if times else series
