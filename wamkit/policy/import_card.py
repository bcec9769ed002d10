"""The model card of an imported policy: what it is, where it came from, what was verified."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import __version__
from ..config.importing import describe_difference
from ..config.parts import KINDS
from ..files.printable import escape_markdown
from .card_parts import act_command, card_header, describe_view

if TYPE_CHECKING:
    from .importing import ImportPlan


def import_card(plan: ImportPlan) -> str:
    """A model card in Markdown: source, license, parts, conventions, what was verified."""
    spec, imported = plan.spec, plan.imported
    system = escape_markdown(imported.system or plan.importer.name)
    license = plan.source.hub_license or imported.license
    rows = []
    for kind in KINDS:
        part: Any = getattr(spec, kind)
        if kind in plan.weights:
            came = f"{plan.source.origin} ({len(plan.weights[kind])} tensors)"
        elif getattr(part, "weights", None):
            came = str(part.weights)
        else:
            came = "random weights" if kind in plan.missing else "no weights"
        cells = (kind, part.name, came, part.license)
        rows.append(f"| {' | '.join(map(escape_markdown, cells))} |")
    table = "\n".join(rows)
    cameras = "; ".join(map(describe_view, spec.cameras.views))
    groups = "; ".join(
        f"{group.name} ({group.size}, {group.kind}, {group.normalization})"
        for group in spec.actions.groups
    )
    compared = "\n".join(
        f"- {name}: {'largest difference ' * bool(value)}{describe_difference(value)}"
        for name, value in plan.importer.verified.items()
    )
    dropped = "\n".join(
        f"- {len(names):,} tensor{'s' * (len(names) != 1)}: {reason}"
        for reason, names in plan.dropped.items()
    )
    notes = "\n".join(f"- {escape_markdown(line)}" for line in imported.notes)
    unverified = "".join(
        f"\n- {escape_markdown(f'{name}: {reason}')}"
        for name, reason in plan.importer.unverified.items()
    )
    have = ", ".join(sorted(plan.statistics)) or "none: values stay normalized"
    return f"""{card_header(license)}
# {system}

Imported by wamkit {__version__} from {escape_markdown(plan.source.origin)} with the importer
`{plan.importer.name}` ({plan.importer.source}). License of the weights: {license}.

    {act_command(spec)}

| part | name | weights came from | license |
|---|---|---|---|
{table}

- Cameras, in this order, {spec.cameras.layout} on {spec.cameras.canvas[0]}x\
{spec.cameras.canvas[1]} pixels: {cameras}.
- State: {spec.state.size} values ({spec.state.normalization}).
- Actions: {spec.actions.chunk_size} x {spec.actions.size} at {spec.actions.control_hz:g} Hz: \
{groups}.
- Statistics: {have}.
- Conventions: {spec.conventions or "none that an environment has a name for"}.
- Prompt: `{escape_markdown(spec.text_encoder.prompt_template)}`

## Compared with the authors' code, at tiny size

{compared or "Nothing was compared."}

## Not verified

- released weights: nothing was run with them{unverified}

## Not read

{dropped or "Every tensor of the checkpoint is used."}

## Notes

{notes or "None."}
"""
