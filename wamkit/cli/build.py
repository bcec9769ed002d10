"""`wamkit build`: a spec to a folder that holds a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._options import Json, Overrides, Spec, Tiny
from ._output import emit, note, say, show_table, spinner, table
from ._sources import resolve_source

EXAMPLE = "wamkit build examples/toy.toml --out policy"


def command(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="Folder to write; replaces a saved policy.")],
    tiny: Tiny = False,
    overrides: Overrides = None,
    statistics: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Statistics for normalization.")
    ] = None,
    json: Json = False,
) -> None:
    """Build a policy and save it to a folder atomically."""
    from ..config.check import warnings_of
    from ..policy.actions import read_statistics
    from ..policy.saving import check_writable, save
    from ._inputs import chosen, load_policy

    check_writable(out)  # before the long part
    spec = resolve_source(spec)
    described, notes = chosen(spec, overrides or [], tiny=tiny)
    cautions = warnings_of(described)
    values = {} if statistics is None else read_statistics(statistics)
    policy, untrained = load_policy(spec, described, "cpu", overrides or [])
    notes += untrained
    policy.set_statistics(values)
    with spinner(f"writing {out}"):
        folder = save(policy, out)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if json:
        warned = [c.model_dump(mode="json") for c in cautions]
        emit({"folder": str(folder), "files": files, "notes": notes, "warnings": warned})
        return
    for line in notes:
        note(line)
    say(f"wrote {folder}", whole=True)
    made = table("file", "bytes", right=("bytes",), keep=("file",))
    for name, size in files.items():
        made.add_row(name, f"{size:,}")
    show_table(made)
