"""`wamkit import`: a released checkpoint becomes a policy folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config.importing import describe_difference
from ..config.registry import registry
from ..errors import WamkitError
from ._folding import unbroken
from ._options import Json
from ._output import emit, note, say, show_table, spinner, table

if TYPE_CHECKING:
    from ..policy.importing import ImportPlan

EXAMPLE = "wamkit import hf:yuanty/fastwam/libero_uncond_2cam224.pt --out policy"


def _complete_system(incomplete: str) -> list[str]:
    return [name for name in registry().names("importer") if name.startswith(incomplete)]


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, a folder, or hf:owner/name.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; replaces a saved policy.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The importer (`wamkit list importer`); by default the one that recognizes it.",
            autocompletion=_complete_system,
        ),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set one value of the spec, such as vae.weights=FOLDER, or of the importer, such "
            "as importer.variant=joint; may be repeated.",
        ),
    ] = None,
    random_parts: Annotated[
        bool,
        typer.Option(
            "--random-parts",
            help="Give parts that the checkpoint lacks random weights instead of asking for them.",
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan and write nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Import a released checkpoint as a policy folder.

    Writes the spec, the weights of every part, the statistics and a model card. Every tensor is
    accounted for: used, or dropped with the reason. A VAE or a text encoder that is published
    elsewhere is named with --set.
    """
    from ..policy.importing import plan_import, plan_summary
    from ..policy.saving import check_writable

    if out is None and not dry_run:
        raise WamkitError("import needs a folder to write", "--out FOLDER, or --dry-run")
    if out is not None:
        check_writable(out)
    with spinner(f"reading {source}"):
        plan = plan_import(source, system, overrides or [])
    summary = plan_summary(plan, random_parts=random_parts)
    files: dict[str, int] = {}
    if not dry_run:
        assert out is not None
        with spinner(f"writing {out}"):
            folder = plan.write(out, random_parts=random_parts)
        files = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        summary |= {"folder": str(folder)}
    if json:
        emit({**summary, "dry_run": dry_run, "files": files})
        return
    _show(plan, summary)
    if files:
        say(f"\nwrote {unbroken(summary['folder'])}", whole=True)
        made = table("file", "bytes", right=("bytes",), keep=("file",))
        for name, size in files.items():
            made.add_row(name, f"{size:,}")
        show_table(made)


def _show(plan: ImportPlan, summary: dict[str, Any]) -> None:
    say(f"{summary['system']}, recognized by the importer {summary['importer']}")
    say(f"source: {unbroken(summary['source'])}; license of the weights: {summary['license']}")
    say()
    made = table("part", "name", "tensors", "parameters", "weights from", right=("tensors",))
    for kind, row in summary["parts"].items():
        count = f"{row['parameters']:,}" if row["tensors"] else ""
        tensors = f"{row['tensors']:,}" if row["tensors"] else ""
        made.add_row(kind, row["name"], tensors, count, row["from"])
    show_table(made)
    say()
    for reason, names in summary["dropped"].items():
        count = f"{len(names):,} tensors, such as" if len(names) > 1 else "1 tensor,"
        say(f"dropped: {count} {names[0]}: {reason}")
    have = " and ".join(summary["statistics"])
    say(f"statistics: {have or 'none, so that actions stay normalized'}")
    if summary["verified"]:
        compared = ", ".join(
            f"{name} {describe_difference(value)}" for name, value in summary["verified"].items()
        )
        say(f"compared with the authors' code, largest differences: {compared}")
    for name, reason in summary["unverified"].items():
        note(f"not compared: {name}: {reason}")
    for line in summary["notes"]:
        note(line)
