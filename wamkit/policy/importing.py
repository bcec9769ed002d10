"""Import a released checkpoint: recognize it, plan what becomes of every tensor, write a policy.

A plan is made from headers alone; nothing is written before every tensor of the checkpoint is
accounted for and every part has all of its weights. Tensors pass through memory one at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SerializeAsAny
from torch import Tensor, nn

from ..checkpoints.files import Entry
from ..checkpoints.formats import few
from ..checkpoints.lazy import LazyTensors
from ..checkpoints.lora import LoraSource
from ..checkpoints.random_weights import build_seeded
from ..checkpoints.renaming import add_renamed
from ..checkpoints.safetensors import entries_of
from ..checkpoints.source import Source
from ..config.check import check
from ..config.importing import Imported, ImporterConfig
from ..config.parts import KINDS, TextEncoderConfig
from ..config.registry import registry
from ..config.spec import PolicySpec, override, parse, parse_part
from ..errors import SpecError, WamkitError, did_you_mean
from .import_card import import_card
from .normalization import Statistics
from .policy import Policy
from .saving import OTHERS, check_writable, module_to_save, strip_paths, write_folder

PREFIX = "importer."
"""Beginning of the keys that set options of the importer, not of the spec."""
STATED = ("type", "_class_name", "model_type")
"""Keys of a `config.json` that name a class: of LeRobot, diffusers and transformers."""


@dataclass(frozen=True)
class ImportPlan:
    """What an import will write, and from where."""

    source: Source
    importer: ImporterConfig
    imported: Imported
    spec: PolicySpec
    """With the paths of parts that are published elsewhere."""
    weights: Mapping[str, Mapping[str, Entry]]
    """Kind of part -> its tensors by our names, each with its place in the checkpoint."""
    dropped: Mapping[str, tuple[str, ...]]
    """Reason -> names of tensors of the checkpoint that are not read."""
    statistics: Mapping[str, Statistics]
    missing: tuple[str, ...]
    """Kinds of part that the checkpoint lacks and no path names: they get random weights."""
    shape: Policy
    """The policy on the meta device (`shape_of`)."""

    def write(self, out: str | Path, *, random_parts: bool = False) -> Path:
        """Write the policy folder atomically; return its path.

        Parts that are published elsewhere are read from the paths that the spec names. With
        `random_parts`, those in `missing` get random weights instead of being asked for.

        Raises:
            WamkitError: A part has no weights, a value is not finite, or the folder cannot be
                written; nothing is left half-written.
        """
        goal = check_writable(out)
        must = self.missing if not random_parts else [k for k in self.missing if self._is_read(k)]
        if must:
            raise WamkitError(*self._missing_parts())
        card = import_card(self)
        write_folder(goal, self.spec, self._parts(), self.statistics, card)
        return goal

    def _parts(self) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
        """Kind and tensors of every part: of the checkpoint, of its own files, or random."""
        for kind in (*KINDS, *OTHERS):
            if kind in self.weights:
                yield kind, LazyTensors(self.weights[kind])
            elif module_to_save(self.shape, kind) is not None:
                if kind not in ("vae", "text_encoder", *self.imported.elsewhere):
                    raise WamkitError(
                        f"the importer {self.importer.name} states no tensors for the {kind}",
                        "this is a fault of the importer",
                    )
                module = build_seeded(self.spec, kind, getattr(self.spec, kind).build, "cpu")
                yield kind, module.state_dict()

    def _is_read(self, kind: str) -> bool:
        """True if a saved policy reads this part from the folder that its spec names."""
        return bool(getattr(getattr(self.spec, kind), "external_weights", False))

    def _missing_parts(self) -> tuple[str, str]:
        lines = [
            f"{kind}: {self.imported.elsewhere.get(kind, 'no published place is known')}"
            for kind in self.missing
        ]
        return (
            "the checkpoint does not hold every part, and these have no weights yet\n  "
            + "\n  ".join(lines),
            "name a local folder or the hub: "
            + " ".join(
                f"--set {kind}.weights={self.imported.elsewhere.get(kind, 'FOLDER')}"
                for kind in self.missing
            ),
        )


def plan_import(
    path: str | Path, system: str | None = None, overrides: Iterable[str] = ()
) -> ImportPlan:
    """Plan the import of the checkpoint at `path`, from headers and settings alone.

    Args:
        path: A file, a folder, or hf:owner/name.
        system: Name of an importer; None to recognize it.
        overrides: "KEY=VALUE" for the spec, or "importer.KEY=VALUE" for the importer.

    Raises:
        WamkitError: No importer, or several, recognize it; a tensor is not accounted for, missing
            or misshapen; statistics are damaged; the composition has conflicts.
    """
    overrides = tuple(overrides)
    rest = [text for text in overrides if not text.startswith(PREFIX)]
    source, importer, imported = read_source(path, overrides, system)
    raw = override(dict(imported.spec), rest)
    if conflicts := [found for found in check(raw) if not found.missing]:
        raise SpecError(conflicts, f"what {importer.name} reads in {path}")
    spec = parse(raw, str(path))
    shape = shape_of(spec)
    weights, used = _assign_tensors(source, imported, spec, shape, importer.name)
    dropped = _account_for_rest(source, imported, used)
    statistics = {
        name: Statistics.parse(table, f"{path}: {name}")
        for name, table in imported.statistics.items()
    }
    for name, size in (("action", spec.actions.size), ("state", spec.state.size)):
        if name in statistics and len(statistics[name].min) != size:
            raise WamkitError(
                f"the statistics of {name} have {len(statistics[name].min)} values, the policy "
                f"{size}",
                "these are the statistics of another robot: name those of this checkpoint",
            )
    missing = tuple(
        kind
        for kind in dict.fromkeys(("vae", "text_encoder", *imported.elsewhere))
        if kind not in weights
        and getattr(spec, kind).weights is None
        and getattr(getattr(spec, kind), "embeddings_file", None) is None
        and (
            module_to_save(shape, kind) is not None
            or (kind == "text_encoder" and spec.text_encoder.external_weights)
        )
    )
    return ImportPlan(
        source, importer, imported, spec, weights, dropped, statistics, missing, shape
    )


def read_source(
    path: str | Path, overrides: Iterable[str] = (), system: str | None = None
) -> tuple[Source, ImporterConfig, Imported]:
    """The checkpoint at `path`, its importer, and what that reads; arguments of `plan_import`.

    Raises WamkitError if no importer, or several, recognize it, or a file is damaged.
    """
    source = Source(path)
    own = [text.removeprefix(PREFIX) for text in overrides if text.startswith(PREFIX)]
    importer = choose_importer(source, system, own)
    return source, importer, _read(importer, source)


def _read(importer: ImporterConfig, source: Source) -> Imported:
    """What the importer reads. Raises WamkitError, also where it stumbles over a damaged file."""
    try:
        return importer.read(source)
    except WamkitError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise WamkitError(
            f"a file of {source.path} does not say what {importer.name} expects "
            f"({type(error).__name__}: {error})",
            "copy its settings and statistics again, whole; if they are as they were released, "
            "report this as a fault of the importer",
        ) from error


def choose_importer(
    source: Source, system: str | None, overrides: Iterable[str] = ()
) -> ImporterConfig:
    """The importer that is named, or the one that recognizes `source`.

    Raises WamkitError if none or several do, with what the checkpoint holds.
    """
    found = registry()
    names = found.names("importer")
    if system is not None:
        if system not in names:
            found.get("importer", system)  # raises, with the nearest name
        raw = override({"name": system}, overrides)
        importer: Any = parse_part("importer", raw)
        if not importer.recognizes(source):
            others = [n for n in names if n != system and _parse(n).recognizes(source)]
            raise WamkitError(
                f"{source.path} is no checkpoint of {system}: {_describe(source)}",
                f"it looks like one of {', '.join(others)}: --system {others[0]}"
                if others
                else "name the file or folder that this system released",
            )
        return importer  # type: ignore[no-any-return]
    fitting = [name for name in names if _parse(name).recognizes(source)]
    if len(fitting) == 1:
        return parse_part("importer", override({"name": fitting[0]}, overrides))  # type: ignore[return-value]
    if fitting:
        raise WamkitError(
            f"{source.path} may be a checkpoint of {' or of '.join(fitting)}",
            f"say which: --system {fitting[0]}",
        )
    raise WamkitError(
        f"{source.path} is no checkpoint that an importer recognizes: {_describe(source)}; "
        f"there are importers for {', '.join(names) or 'nothing'}",
        "`wamkit list importer` says what each reads; weights of a single part are named in a spec "
        "instead: backbone.weights = FILE",
    )


def _parse(name: str) -> ImporterConfig:
    return parse_part("importer", {"name": name})  # type: ignore[return-value]


def _describe(source: Source) -> str:
    """What a checkpoint holds, in one line, and what its `config.json` says it is."""
    try:
        names = list(source.tensors)
    except WamkitError as error:
        return error.what
    first = sorted({name.partition(".")[0] for name in names})
    held = f"it holds {len(names):,} tensors, named {few([f'{n}.*' for n in first])}"
    try:
        config = source.settings("config.json")
    except WamkitError:
        return held
    stated = [f"{key} = {str(config[key])[:80]!r}" for key in STATED if key in config]
    return f"{held}, and its config.json states {', '.join(stated)}" if stated else held


def shape_of(spec: PolicySpec) -> Policy:
    """The policy on the meta device, without any file of weights.

    A text encoder that is read from a folder of its own is left out.
    """
    bare = strip_paths(spec)
    if bare.text_encoder.external_weights and bare.text_encoder.embeddings_file is None:
        unread = UnreadEncoder(like=bare.text_encoder)
        bare = bare.model_copy(update={"text_encoder": unread})
    return Policy.from_spec(bare, device="meta")


class UnreadEncoder(TextEncoderConfig):
    """Stands for a text encoder whose files are not needed to know the shapes of the others."""

    external_weights: ClassVar[bool] = True
    name: str = "unread"
    like: SerializeAsAny[TextEncoderConfig]
    """The encoder that it stands for."""

    @property
    def width(self) -> int:
        """As that of the encoder."""
        return self.like.width

    @property
    def max_tokens(self) -> int:
        """As that of the encoder."""
        return self.like.max_tokens

    def build(self) -> Any:
        """Return a module without weights that encodes nothing."""
        module = nn.Module()
        module.trainable = False  # type: ignore[assignment]
        return module


def _assign_tensors(
    source: Source, imported: Imported, spec: PolicySpec, shape: Policy, importer: str
) -> tuple[dict[str, dict[str, Entry]], set[tuple[str, str]]]:
    """Kind -> its tensors by our names, and the (folder, name) of every tensor that is used.

    Raises WamkitError with the faults of all parts at once, or if `importer` renames two tensors
    to one.
    """
    found: dict[str, dict[str, Entry]] = {}
    used: set[tuple[str, str]] = set()
    faults: list[WamkitError] = []
    for kind, selection in imported.weights.items():
        module = module_to_save(shape, kind)
        if module is None:
            raise WamkitError(
                f"the importer states tensors for the {kind}, and the policy has no such weights",
                did_you_mean(kind, (*KINDS, *OTHERS), "this is a fault of the importer"),
            )
        held = source.tensors_in(selection.folder)
        own: dict[str, Entry] = {}
        for name, entry in held.items():
            if not re.search(selection.pattern, name):
                continue
            if any(re.search(pattern, name) for pattern in imported.dropped):
                continue
            add_renamed(own, name, entry, selection.rules, importer)
            used.add((selection.folder, name))
        layouts, part = selection.layouts, getattr(spec, kind, None)
        if layouts is None:
            layouts = part.layouts() if part is not None else ()
        try:
            where, lora = f"{kind} in {source.path}", LoraSource.of(kind, part)
            found[kind] = entries_of(module, own, layouts, where, lora)
        except WamkitError as error:
            faults.append(error)
    if faults:
        raise WamkitError("\n".join(error.what for error in faults), faults[0].hint)
    return found, used


def _account_for_rest(
    source: Source, imported: Imported, used: set[tuple[str, str]]
) -> dict[str, tuple[str, ...]]:
    """Reason -> names that are dropped.

    Raises WamkitError if a tensor has neither use nor reason.
    """
    folders = {selection.folder for selection in imported.weights.values()}
    dropped: dict[str, list[str]] = {}
    unknown = []
    for folder in sorted(folders):
        for name in source.tensors_in(folder):
            if (folder, name) in used:
                continue
            reason = next((r for p, r in imported.dropped.items() if re.search(p, name)), None)
            if reason is None:
                unknown.append(name)
            else:
                dropped.setdefault(reason, []).append(name)
    if unknown:
        raise WamkitError(
            f"{len(unknown)} tensors of {source.path} belong to no part: {few(sorted(unknown))}",
            "this checkpoint is of another version of the system than the importer reads",
        )
    return {reason: tuple(sorted(names)) for reason, names in dropped.items()}


def plan_summary(plan: ImportPlan, *, random_parts: bool = False) -> dict[str, Any]:
    """The plan as plain data, for `--json` and the terminal; as that of `ImportPlan.write`."""
    parts = {}
    for kind in KINDS:
        part: Any = getattr(plan.spec, kind)
        entries = plan.weights.get(kind)
        if entries is not None:
            came = f"{plan.source.origin}"
        elif getattr(part, "weights", None):
            came = str(part.weights)
        elif kind in plan.missing and random_parts:
            came = "random weights"
        elif kind in plan.missing:
            came = f"missing: {plan.imported.elsewhere.get(kind, 'no published place is known')}"
        else:
            came = "no weights"
        parts[kind] = {
            "name": part.name,
            "from": came,
            "tensors": len(entries or ()),
            "parameters": sum(prod(e.shape) for e in (entries or {}).values()),
        }
    return {
        "system": plan.imported.system or plan.importer.name,
        "importer": plan.importer.name,
        "source": plan.source.origin,
        "license": plan.source.hub_license or plan.imported.license,
        "parts": parts,
        "dropped": {reason: list(names) for reason, names in plan.dropped.items()},
        "statistics": sorted(plan.statistics),
        "notes": list(plan.imported.notes),
        "verified": dict(plan.importer.verified),
        "unverified": dict(plan.importer.unverified),
    }
