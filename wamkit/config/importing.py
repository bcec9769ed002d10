"""The sixth kind of part: a reader of the checkpoints that a published system released; no torch.

An importer recognizes a checkpoint by its files and tensor names, and states how it becomes a
policy: the spec, which tensors are which part's, the statistics, what is left out and why. Reading,
checking and writing are the same for all (`wamkit.policy.importing`). It may also state how a
policy becomes a folder of another library (`wamkit.policy.exporting`).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .kinds import Kind
from .parts import Conflict, Part


@dataclass(frozen=True)
class Selection:
    """The tensors of a checkpoint that belong to one part."""

    pattern: str
    """Regular expression that their names match."""
    rules: tuple[tuple[str, str], ...] = ()
    """Regular expressions and replacements, applied in order: to the names that a layout knows."""
    layouts: Sequence[Any] | None = None
    """The layouts of the new names (`wamkit.checkpoints.safetensors.CheckpointLayout`); the
    part's own (`Weighted.layouts`) if left open."""
    folder: str = ""
    """Subfolder of the checkpoint that holds them, such as "transformer"."""


@dataclass(frozen=True)
class Imported:
    """How a checkpoint becomes a policy, as an importer states it."""

    spec: Mapping[str, Any]
    """The composition, as the tables of a spec file."""
    weights: Mapping[str, Selection]
    """Kind of part (or "conditioner") -> its tensors."""
    dropped: Mapping[str, str] = field(default_factory=dict)
    """Regular expression of names that are not read -> the reason."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Kind of part that the checkpoint lacks -> where its weights are published (hf:owner/name)."""
    statistics: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """"action" and "state" -> rows as of `wamkit.policy.normalization.Statistics`."""
    system: str = ""
    """Name of the system and the release, such as "Fast-WAM (LIBERO)"."""
    license: str = "not stated"
    """License of the weights."""
    notes: Sequence[str] = ()
    """Facts that the user should know: conventions of cameras and actions, assumptions."""


@dataclass(frozen=True)
class Normalized:
    """How the values of an action or a state are normalized: (value - center) / half."""

    center: Sequence[float]
    half: Sequence[float]
    """Never 0."""
    rows: Mapping[str, Sequence[float]]
    """The statistics they come from, as of `wamkit.policy.normalization.Statistics`."""


@dataclass(frozen=True)
class Exported:
    """How a saved policy becomes a folder of another library, as an importer states it."""

    rules: Mapping[str, Sequence[tuple[str, str]]]
    """Kind of part -> regular expressions and replacements, applied in order: from our names of its
    tensors to theirs. All go into one file."""
    documents: Mapping[str, Any]
    """Name of a JSON file -> what it holds."""
    tensors: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    """Name of a safetensors file -> its tensors by name, written as float32."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Kind of part whose weights are not written -> where they come from there."""
    weights: str = "model.safetensors"
    """Name of the file of all weights."""
    notes: Sequence[str] = ()
    """Facts that the user should know: what is not the same there."""


def read_verified(module_file: str) -> dict[str, float]:
    """What was compared -> the largest difference, from `verified.toml` next to a module."""
    return {name: float(value) for name, value in _evidence(module_file)["compared"].items()}


def read_unverified(module_file: str) -> dict[str, str]:
    """What was not compared -> the reason, from `verified.toml` next to a module."""
    return {name: str(reason) for name, reason in _evidence(module_file)["open"].items()}


def _evidence(module_file: str) -> dict[str, Any]:
    file = Path(module_file).with_name("verified.toml")
    return tomllib.loads(file.read_text(encoding="utf-8"))


def describe_difference(value: float) -> str:
    """A largest difference as text, such as "4e-7", or "equal"."""
    return re.sub(r"e([+-])0", r"e\1", f"{value:.0e}") if value else "equal"


class ImporterConfig(Part):
    """A reader of released checkpoints; `wamkit import` uses it."""

    kind: ClassVar[Kind] = "importer"
    verified: ClassVar[Mapping[str, float]] = {}
    """What was compared with the authors' code -> the largest difference found."""
    unverified: ClassVar[Mapping[str, str]] = {}
    """What was not compared -> the reason."""

    def recognizes(self, source: Any) -> bool:
        """True if `source` is a checkpoint of this system, by its files and tensor names.

        `source` is a `wamkit.checkpoints.source.Source`.
        """
        raise NotImplementedError(f"{type(self).__name__} must recognize its checkpoints")

    def read(self, source: Any) -> Imported:
        """State how `source` becomes a policy.

        Raises WamkitError if something is missing or contradicts the rest.
        """
        raise NotImplementedError(f"{type(self).__name__} must read its checkpoints")

    exports: ClassVar[tuple[str, ...]] = ()
    """Formats of other libraries that it writes, such as "lerobot"."""

    def export_conflicts(self, format: str, spec: Any) -> Iterator[Conflict]:
        """Yield everything in `spec`, a `PolicySpec`, that `format` cannot express."""
        raise NotImplementedError(f"{type(self).__name__} exports nothing")

    def export(self, format: str, spec: Any, normalized: Mapping[str, Normalized]) -> Exported:
        """State how a policy becomes a folder of `format`; there were no `export_conflicts`.

        `normalized` is of "action" and "state"; one without statistics is not in it.
        """
        raise NotImplementedError(f"{type(self).__name__} exports nothing")
