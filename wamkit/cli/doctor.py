"""`wamkit doctor`: check the installation, with commands that fix it."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from importlib.util import find_spec
from typing import Any

import typer

from .. import __version__
from ..config.part_rules import schema_fault
from ..config.registry import registry
from ..files.install import install_hint
from ..files.variables import OTHERS, VARIABLES
from ._options import Json
from ._output import FOUND, emit, error, say, show_table, table

EXAMPLE = "wamkit doctor --json"

PACKAGES = (
    "torch",
    "numpy",
    "pydantic",
    "safetensors",
    "timm",
    "open-clip-torch",
    "diffusers",
    "transformers",
    "sentencepiece",
)
"""Distributions whose versions decide what works; the last three come with wamkit[hf]."""


def command(json: Json = False) -> None:
    """Check the installation. Exit code 1 if something is broken."""
    versions = {name: _version(name) for name in PACKAGES}
    machine, broken = devices()
    found = registry()
    plugins = [
        {
            "plugin": p.name,
            "from": p.distribution,
            "version": p.version,
            "status": p.status,
            "reason": p.reason,
            "notes": list(p.notes),
            "parts": [f"{kind} {name}" for kind, name in p.parts],
        }
        for p in found.plugins
    ]
    broken += [
        f"plugin {p.name} (from {p.distribution}) is {p.status}: {p.reason}"
        for p in found.plugins
        if p.status in ("broken", "incompatible")
    ]
    broken += [
        f"{fault} (from {found.plugin_of[cls.kind, cls.model_fields['name'].default]})"
        for cls in found
        if (fault := schema_fault(cls))
    ]
    notes = [
        f"plugin {p.name} (from {p.distribution}) {note} when it was imported; this was undone"
        for p in found.plugins
        for note in p.notes
        if p.status == "ok"
    ]
    notes += [
        f"{kind} {name} is offered by {' and by '.join(owners)}; write "
        + " or ".join(found.labels(kind, name))
        for (kind, name), owners in found.clashes.items()
    ]
    lacking = missing_modules()
    variables = {name: os.environ.get(name) for name in (*VARIABLES, *OTHERS)}
    if json:
        emit(
            {
                "wamkit": __version__,
                "python": platform.python_version(),
                "versions": versions,
                "machine": machine,
                "plugins": plugins,
                "variables": variables,
                "missing": lacking,
                "broken": broken,
                "notes": notes,
            }
        )
    else:
        _draw(versions, machine, plugins, variables, lacking, notes, broken)
    if broken:
        raise typer.Exit(FOUND)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def devices() -> tuple[dict[str, Any], list[str]]:
    """Processors and accelerators as torch reports them, and faults of torch."""
    machine: dict[str, Any] = {"processors": os.cpu_count(), "threads": None, "cuda": []}
    if find_spec("torch") is None:
        return machine, ["torch is not installed: pip install torch"]
    try:
        import torch
    except Exception as problem:  # this command must report a torch that does not import
        return machine, [f"torch cannot be imported: {type(problem).__name__}: {problem}"]
    machine["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = round(properties.total_memory / 2**30, 1)
            machine["cuda"].append({"name": properties.name, "memory_gib": memory})
    return machine, []


def missing_modules() -> list[dict[str, Any]]:
    """For each set of missing modules: the parts that need them, and the install command."""
    wanted: dict[tuple[str, ...], list[str]] = {}
    for cls in registry():
        absent = tuple(name for name in cls.requires if find_spec(name) is None)
        if absent:
            label = f"{cls.kind} {cls.model_fields['name'].default}"
            wanted.setdefault(absent, []).append(label)
    return [
        {"modules": list(modules), "for": labels, "cure": install_hint(modules=modules)}
        for modules, labels in wanted.items()
    ]


def _draw(
    versions: dict[str, str | None],
    machine: dict[str, Any],
    plugins: list[dict[str, Any]],
    variables: dict[str, str | None],
    lacking: list[dict[str, Any]],
    notes: list[str],
    broken: list[str],
) -> None:
    say(f"wamkit {__version__}, Python {platform.python_version()}", "bold")
    say(", ".join(f"{name} {version or 'not installed'}" for name, version in versions.items()))
    threads = f", torch uses {machine['threads']}" if machine["threads"] else ""
    say(f"{machine['processors']} processors{threads}")
    for device in machine["cuda"]:
        say(f"cuda: {device['name']}, {device['memory_gib']} GiB")
    if not machine["cuda"]:
        say("no CUDA device: policies run on the CPU")
    say()
    made = table(
        "plugin",
        "from",
        "version",
        "status",
        "offers",
        keep=("plugin", "from", "version", "status"),
    )
    for row in plugins:
        offers = ", ".join(row["parts"]) or row["reason"]
        made.add_row(row["plugin"], row["from"], row["version"], row["status"], offers)
    show_table(made)
    say()
    made = table("environment variable", "value", keep=("environment variable", "value"))
    for name, value in variables.items():
        made.add_row(name, "not set" if value is None else value)
    show_table(made)
    for entry in lacking:
        say(
            f"missing {', '.join(entry['modules'])}, for {', '.join(entry['for'])}: {entry['cure']}"
        )
    for line in notes:
        say(f"note: {line}")
    for line in broken:
        error(line)
    if not broken:
        say("nothing is broken")
