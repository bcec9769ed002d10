"""`wamkit schema`: the JSON schema of every spec that the installed parts allow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config.part_rules import schema_fault
from ..config.registry import registry
from ..config.spec import schema
from ..files import strict_json
from ..files.durable import write_text
from ._output import emit_raw, error, say

EXAMPLE = "wamkit schema --out spec.schema.json"


def command(
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Print the JSON schema of a spec.

    Editors use it to complete and check specs. It covers the installed parts.
    """
    for cls in registry():
        if fault := schema_fault(cls):
            owner = registry().plugin_of[cls.kind, cls.model_fields["name"].default]
            error(f"left out: {fault} (from {owner})", "tell its authors")
    if out is None:
        emit_raw(schema())
        return
    write_text(out, strict_json.dumps(schema(), indent=2) + "\n")
    say(f"wrote {out}", whole=True)
