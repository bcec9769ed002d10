"""`wamkit export`: a saved policy becomes a folder of another library."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ._folding import unbroken
from ._options import Json
from ._output import emit, note, say, show_table, spinner, table

EXAMPLE = "wamkit export lerobot policy --out lerobot"


def _complete_format(incomplete: str) -> list[str]:
    from ..policy.exporting import formats

    return [name for name in formats() if name.startswith(incomplete)]


def command(
    format: Annotated[
        str,
        typer.Argument(
            metavar="FORMAT",
            help="Library that is to load the policy, such as lerobot.",
            autocompletion=_complete_format,
        ),
    ],
    policy: Annotated[str, typer.Argument(metavar="POLICY", help="A saved policy, or a run.")],
    out: Annotated[Path, typer.Option(help="Folder to write; replaces an earlier export.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one value of the policy's spec, such as actions.clip=none, where the "
            "library knows nothing like it; may be repeated.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Export a saved policy as a folder that another library loads by itself.

    Refuses a policy that the library cannot express, with every reason. Importers know the formats;
    one that nothing exports to is answered with those that are installed.
    """
    from ..policy.exporting import export_summary, plan_export

    plan = plan_export(format, policy, overrides or [])
    plan.check_writable(out)
    summary = export_summary(plan)
    with spinner(f"writing {out}"):
        folder = plan.write(out)
    files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
    if json:
        emit({**summary, "folder": str(folder), "files": files})
        return
    say(f"{summary['policy']} as {plan.exporter.name} of {format}", whole=True)
    for kind, place in summary["left_out"].items():
        note(f"{kind}: its weights are not written; {place}")
    for line in summary["notes"]:
        note(line)
    say(f"\nwrote {unbroken(str(folder))}", whole=True)
    made = table("file", "bytes", right=("bytes",), keep=("file",))
    for name, size in files.items():
        made.add_row(name, f"{size:,}")
    show_table(made)
