"""Export a saved policy to the format of another library, as an importer states it.

Nothing is written before every file of weights has its place or a reason to be left out. Tensors
pass through memory one at a time, and no part is built.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.files import Entry, headers
from ..checkpoints.lazy import LazyTensors
from ..checkpoints.renaming import add_renamed
from ..checkpoints.safetensors import write
from ..config.importing import Exported, ImporterConfig, Normalized
from ..config.parts import KINDS
from ..config.registry import registry
from ..config.runs import find
from ..config.spec import PolicySpec, parse_part
from ..errors import WamkitError, did_you_mean
from ..files import strict_json
from ..files.durable import recover, replacing_folder
from ..files.paths import expand_home
from .actions import read_statistics
from .build import resolve
from .normalization import Statistics
from .saving import OTHERS, STATISTICS


@dataclass(frozen=True)
class ExportPlan:
    """What an export will write, and from where."""

    home: Path
    """Folder of the saved policy."""
    format: str
    exporter: ImporterConfig
    exported: Exported
    weights: Mapping[str, Entry]
    """Their name of a tensor -> its place in the saved policy."""
    statistics: tuple[str, ...]
    """Which statistics the policy has: "action", "state"."""
    left_out: Mapping[str, str]
    """Kind of part whose weights are in the policy and not written -> where they come from."""

    def write(self, out: str | Path) -> Path:
        """Write the folder atomically, in place of an earlier export; return its path.

        Raises WamkitError if the folder holds anything else, a value is not finite, or the file
        system refuses.
        """
        goal = self.check_writable(out)
        with replacing_folder(goal) as part:
            write(LazyTensors(self.weights), part / self.exported.weights)
            for file, rows in self.exported.tensors.items():
                write(
                    {k: torch.tensor(v, dtype=torch.float32) for k, v in rows.items()}, part / file
                )
            for file, table in self.exported.documents.items():
                (part / file).write_text(strict_json.dumps(table, indent=2) + "\n")
        return goal

    def check_writable(self, out: str | Path) -> Path:
        """The absolute path of `out`. Raises WamkitError unless it is new, empty or an export."""
        goal = recover(expand_home(out).absolute())
        own = {self.exported.weights, *self.exported.tensors, *self.exported.documents}
        inside = {p.name for p in goal.iterdir()} if goal.is_dir() else set()
        if (goal.exists() and not goal.is_dir()) or inside - own:
            raise WamkitError(
                f"{goal} exists and is no export to {self.format}", "choose another folder"
            )
        return goal


def plan_export(format: str, path: str | Path, overrides: Iterable[str] = ()) -> ExportPlan:
    """Plan the export of the saved policy at `path`, from its spec and headers alone.

    Args:
        format: Format of another library that an installed importer writes, such as "lerobot".
        path: A saved policy, or a run that holds one.
        overrides: "KEY=VALUE" for its spec.

    Raises:
        WamkitError: Nothing writes the format; the policy holds what it cannot express; a file of
            weights has no place in it.
    """
    exporters = _exporters(format)
    home = find(path).policy
    spec = resolve(home, overrides)
    exporter = _choose(format, exporters, spec)
    statistics = read_statistics(home / STATISTICS)
    exported = exporter.export(format, spec, _normalized(spec, statistics))
    files = {kind: home / f"{kind}.safetensors" for kind in (*KINDS, *OTHERS)}
    held = {kind: file for kind, file in files.items() if file.is_file()}
    if missing := [kind for kind in exported.rules if kind not in held]:
        raise WamkitError(
            f"{home} lacks {missing[0]}.safetensors", "copy the whole folder of the policy again"
        )
    known = {*exported.rules, *exported.left_out}
    if homeless := [kind for kind in held if kind not in known]:
        raise WamkitError(
            f"the policy has weights of its {' and '.join(homeless)}, and {format} has no place "
            "for them",
            "this policy runs in wamkit alone",
        )
    weights: dict[str, Entry] = {}
    for kind, rules in exported.rules.items():
        for name, entry in headers([held[kind]]).items():
            add_renamed(weights, name, entry, rules, exporter.name)
    left_out = {kind: why for kind, why in exported.left_out.items() if kind in held}
    have = tuple(sorted(statistics))
    return ExportPlan(home, format, exporter, exported, weights, have, left_out)


def _normalized(spec: PolicySpec, statistics: Mapping[str, Statistics]) -> dict[str, Normalized]:
    """Center and half width of every value of the action and the state."""
    groups = spec.actions.groups
    rules = {
        "action": [group.normalization for group in groups for _ in range(group.size)],
        "state": [spec.state.normalization] * spec.state.size,
    }
    scaling = {"action": spec.actions.scaling, "state": spec.state.scaling}
    found = {}
    for name, own in statistics.items():
        rows = [own.scale(i, rule, scaling[name]) for i, rule in enumerate(rules[name])]
        if kept := [i for i, row in enumerate(rows) if row.decoded is not None]:
            raise WamkitError(
                f"the {name} has constants that are not encoded, and decode to their value "
                f"(dimensions {', '.join(map(str, kept[:8]))}); exported formats cannot say so",
                f"--set {'actions' if name == 'action' else name}.scaling.constants=hold",
            )
        center, half = [row.center for row in rows], [row.half for row in rows]
        found[name] = Normalized(center, half, asdict(own))
    return found


def formats() -> list[str]:
    """Formats that installed importers write, sorted."""
    found = registry()
    classes: list[Any] = [found.get("importer", name) for name in found.names("importer")]
    return sorted({format for own in classes for format in own.exports})


def _exporters(format: str) -> list[ImporterConfig]:
    found = registry()
    parts: list[Any] = [
        parse_part("importer", {"name": name})
        for name in found.names("importer")
        if format in found.get("importer", name).exports  # type: ignore[attr-defined]
    ]
    if not parts:
        known = formats()
        raise WamkitError(
            f"no installed plugin exports to {format!r}; known are {', '.join(known) or 'none'}",
            did_you_mean(format, known, "`wamkit list importer` names the plugins"),
        )
    return parts


def _choose(format: str, exporters: list[ImporterConfig], spec: PolicySpec) -> ImporterConfig:
    """The first that can express the spec.

    Raises WamkitError with everything that the nearest one cannot express.
    """
    conflicts = {one.name: list(one.export_conflicts(format, spec)) for one in exporters}
    for one in exporters:
        if not conflicts[one.name]:
            return one
    nearest = min(conflicts, key=lambda name: len(conflicts[name]))
    reasons = conflicts[nearest]
    lines = "\n".join(f"- {conflict}" for conflict in reasons)
    raise WamkitError(
        f"{nearest} of {format} cannot express this policy; reasons: {len(reasons)}\n{lines}",
        "what changes the policy slightly may be accepted with --set, as the lines say",
    )


def export_summary(plan: ExportPlan) -> dict[str, Any]:
    """The plan as plain data, for `--json` and the terminal."""
    return {
        "format": plan.format,
        "exporter": plan.exporter.name,
        "policy": str(plan.home),
        "tensors": len(plan.weights),
        "parameters": sum(prod(entry.shape) for entry in plan.weights.values()),
        "statistics": list(plan.statistics),
        "left_out": dict(plan.left_out),
        "notes": list(plan.exported.notes),
    }
