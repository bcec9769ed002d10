"""`wamkit act`: images and an instruction in, a chunk of actions out."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from ._options import (
    Device,
    Images,
    Json,
    Overrides,
    Prompt,
    Quantize,
    Seed,
    Source,
    State,
    Tiny,
)
from ._output import emit, note, say, show_table, spinner, table
from ._sources import resolve_source

if TYPE_CHECKING:
    from ..policy.observation import ActionChunk

PARTS = {
    "start": "Python and the command line",
    "spec": "wamkit, plugins and the spec",
    "torch": "torch's own import",
    "build": "images and building",
    "act": "acting",
}
"""Of the time of a command, in their order."""

EXAMPLE = "wamkit act examples/toy.toml --image front=photo.jpg --prompt 'pick up the cup'"


def command(
    source: Source,
    image: Images,
    prompt: Prompt,
    state: State = None,
    seed: Seed = 0,
    tiny: Tiny = False,
    overrides: Overrides = None,
    device: Device = "cpu",
    quantize: Quantize = "none",
    json: Json = False,
) -> None:
    """Print the actions of a policy for an observation.

    With --tiny, a missing state or image is filled in, with a note.
    """
    start = age()
    marks = [0.0 if start is None else start, time.perf_counter()]
    from ._inputs import build_observation, chosen, load_policy

    source = resolve_source(source)
    spec, notes = chosen(source, overrides or [], tiny=tiny)
    marks.append(time.perf_counter())
    import torch  # noqa: F401  here, so that its time is apart from that of the rest

    marks.append(time.perf_counter())
    seen, filled = build_observation(spec, image, state, prompt, tiny=tiny)
    policy, untrained = load_policy(source, spec, device, overrides or [], quantize)
    marks.append(time.perf_counter())
    with spinner("acting"):
        chunk = policy.act(seen, seed=seed)
    marks.append(time.perf_counter())
    spent = _split(marks)
    notes += filled + untrained
    if chunk.normalized:
        notes.append("no statistics yet: actions are in normalized units")
    if json:
        emit(
            {
                "actions": chunk.values.tolist(),
                "shape": list(chunk.values.shape),
                "names": list(chunk.names),
                "control_hz": chunk.control_hz,
                "seed": seed,
                "normalized": chunk.normalized,
                "notes": notes,
            },
            indent=None,
        )
        return
    for line in notes:
        note(line)
    _draw(chunk)
    say(
        f"{' x '.join(map(str, chunk.values.shape))} at {chunk.control_hz:g} Hz, seed {seed}; "
        f"{(spent['whole'] - spent['start'] - spent['act']) * 1000:.0f} ms to load, "
        f"{spent['act'] * 1000:.0f} ms to act"
    )
    since = "the command was called" if start is None else "the process began"
    parts = ", ".join(f"{spent[name]:.2f} s {description}" for name, description in PARTS.items())
    say(f"{spent['whole']:.2f} s since {since}: {parts}")


def age() -> float | None:
    """Seconds since this process began, to a hundredth; None where that is unknown."""
    stat = Path("/proc/self/stat")
    if not stat.is_file() or not hasattr(time, "CLOCK_BOOTTIME"):
        return None
    fields = stat.read_text().rpartition(")")[2].split()  # the name before it may hold anything
    began = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # since the machine was started
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)


def _split(marks: list[float]) -> Mapping[str, float]:
    """Seconds of each of PARTS, and of the "whole"; `marks` are the first, and when each ended."""
    first, *ends = marks
    spans = [first, *(b - a for a, b in pairwise(ends))]
    return {**dict(zip(PARTS, spans, strict=True)), "whole": sum(spans)}


def _draw(chunk: ActionChunk) -> None:
    """A row for each step, a column for each number."""
    made = table("seconds", *chunk.names, right=("seconds", *chunk.names))
    for step, row in enumerate(chunk.values[0].tolist()):
        made.add_row(f"{step / chunk.control_hz:.2f}", *(f"{value:.4f}" for value in row))
    show_table(made)
