"""`wamkit precompute`: embeddings of instructions, written once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import WamkitError
from ..spec import parse, read
from .options import Json, Overrides, Spec
from .output import console, emit, say

EXAMPLE = "wamkit precompute text spec.toml --prompts prompts.txt --out text.safetensors"


class What(StrEnum):
    """What to compute ahead."""

    text = "text"


def command(
    what: Annotated[What, typer.Argument(help="The embeddings of instructions.")],
    spec: Spec,
    prompts: Annotated[Path, typer.Option(help="A text file with one instruction a line.")],
    out: Annotated[Path, typer.Option(help="The safetensors file to write, or to add to.")],
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Encode instructions once, so that the encoder need not be loaded afterwards.

    Set text_encoder.embeddings to the file in the spec. A run that was interrupted goes on where it
    stopped.
    """
    from rich.progress import Progress

    from ..stored import precompute

    config = parse(read(spec, overrides or []), str(spec)).text_encoder
    try:
        lines = [line.strip() for line in prompts.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as problem:
        raise WamkitError(f"{prompts} cannot be read: {problem}", "name a text file") from None
    if not lines:
        raise WamkitError(f"{prompts} holds no instruction", "write one a line")
    with Progress(console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("encoding", total=len(lines))
        done = precompute(config, lines, out, lambda n: progress.advance(task, n))
    if json:
        emit({"out": str(out), "encoded": done, "prompts": len(set(lines))})
        return
    say(f"wrote {out}: {done} of {len(set(lines))} instructions were new")
    say(f'now set text_encoder.embeddings = "{out}"')
