"""`wamkit act`: pictures and an instruction in, a chunk of actions out."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from .options import (
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
from .output import busy, emit, note, say, show_table, table

if TYPE_CHECKING:
    from ..observation import ActionChunk

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
    """Let a policy act: print the actions it chooses for what it sees.

    With --tiny, what is left out of the state or the pictures is filled in, and said.
    """
    from .inputs import chosen, loaded, observed

    begin = perf_counter()
    spec, notes = chosen(source, overrides or [], tiny=tiny)
    seen, filled = observed(spec, image, state, prompt, tiny=tiny)
    policy, untrained = loaded(source, spec, device, overrides or [], quantize)
    ready = perf_counter()
    with busy("acting"):
        chunk = policy.act(seen, seed=seed)
    done = perf_counter()
    notes += filled + untrained
    if chunk.normalized:
        notes.append("no statistics yet: actions are in normalized units")
    if json:
        emit(
            {
                "actions": chunk.values.tolist(),
                "shape": list(chunk.values.shape),
                "names": list(chunk.names),
                "hertz": chunk.hertz,
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
        f"{' x '.join(map(str, chunk.values.shape))} at {chunk.hertz:g} Hz, seed {seed}; "
        f"{(ready - begin) * 1000:.0f} ms to load, {(done - ready) * 1000:.0f} ms to act"
    )


def _draw(chunk: ActionChunk) -> None:
    """A row for each step, a column for each number."""
    made = table("seconds", *chunk.names, right=("seconds", *chunk.names))
    for step, row in enumerate(chunk.values[0].tolist()):
        made.add_row(f"{step / chunk.hertz:.2f}", *(f"{value:.4f}" for value in row))
    show_table(made)
