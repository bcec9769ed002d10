r"""LoRA that was never merged: each adapter is paired with its weight, and merged as that is read.

    W + scale * up @ down          down [rank, in], up [out, rank], scale = alpha / rank

The product is computed in float32 (float64 if a factor has it), one tensor at a time, when the
weight is read (`wamkit.checkpoints.files.Reader.tensor`). Which names belong together is stated by
`LoraNames`: two forms that many programs write are known for every model, and a `CheckpointLayout`
states others in `lora`. The scale is in no tensor: it comes from a scalar `alpha` in the file, from
the adapter_config.json of peft in its folder, or from the setting `lora_scale` of the part. A scale
that none of them states is asked for, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose, prod
from pathlib import Path
from typing import Any

from ..errors import WamkitError
from ..files.locate import split_prefix
from .files import Adapter, Entry, find, headers, open_weights
from .formats import FLOATS, few, resolve_scales
from .peft_config import PeftConfig, read_peft_config
from .prefixes import Entries, select_prefix, strip_wrappers


@dataclass(frozen=True)
class LoraNames:
    """Names of the factors of an adapter, and of the weight that it belongs to."""

    down: str
    """A regular expression for the whole name of the first factor, [rank, in]."""
    up: str
    """The name of the second factor, [out, rank], as a replacement for `down`."""
    weight: str
    """The name of the weight, as a replacement for `down`, without wrappers (`base_layer.`)."""
    alpha: str = ""
    """The name of a scalar that holds alpha, if there may be one, as a replacement for `down`."""


KNOWN = (
    LoraNames(r"(.+)\.lora_A(\.\w+)?(\.weight)?", r"\1.lora_B\2\3", r"\1.weight"),
    LoraNames(r"(.+)\.(lora[._])down\.weight", r"\1.\2up.weight", r"\1.weight", r"\1.alpha"),
)
"""The forms of peft, and of diffusers and kohya's scripts."""
ADAPTERS = (
    r"(^|[._])(lora_(A|B|a|b|up|down|E|embedding_A|embedding_B)|lora\.(up|down))([._]|$)|"
    r"\.(lokr_w[12](_[ab])?|hada_w[12]_[ab]|dora_scale|lora_magnitude_vector|oft_blocks|oft_diag)"
    r"([._]|$)|^lora_(unet|te\d?|transformer)_"
)
"""A regular expression for names of adapters of any kind, those that are not merged included."""


@dataclass(frozen=True)
class LoraSource:
    """What the settings of a part say about adapters."""

    weights: str | None = None
    """Folder or file of adapters that stand apart from the weights, or hf:owner/name."""
    scale: float | None = None
    """alpha / rank of every adapter."""
    setting: str = "lora_scale"
    """The setting that states `scale`, for messages."""

    @classmethod
    def of(cls, kind: str, part: Any) -> LoraSource:
        """What the part of a spec, or nothing in its place, says about its adapters."""
        weights, scale = (getattr(part, key, None) for key in ("lora", "lora_scale"))
        return cls(weights, scale, f"{kind}.lora_scale")


def attach_adapters(
    entries: Entries, names: Sequence[LoraNames], source: LoraSource, where: str
) -> dict[str, Entry]:
    """Return the entries of the weights, each with its adapter; factors are no entries any more.

    Factors whose weight or other factor is missing stay as they are. Raises WamkitError if a weight
    has several adapters, or adapters that stand apart belong to weights that are not there.
    """
    rest = pair_adapters(entries, names)
    if source.weights is None:
        return rest
    if any(entry.adapter for entry in rest.values()):
        raise WamkitError(
            f"{where} holds a LoRA of its own, and another one is named: {source.weights}",
            f"leave {source.setting.replace('lora_scale', 'lora')} out, or name weights "
            "without a LoRA",
        )
    return _read_apart(entries, names, source.weights, where)


def pair_adapters(entries: Entries, names: Sequence[LoraNames] = ()) -> dict[str, Entry]:
    """The entries, each with its adapter, without the factors.

    Raises WamkitError if a weight has several adapters.
    """
    found = dict(entries)
    for weight, down, up, alpha in _matches(entries, names):
        if weight not in entries or up not in entries:
            continue
        if (known := found[weight].adapter) is not None:
            raise WamkitError(
                f"{weight} has several adapters: {known.down.name} and {down}",
                "keep one adapter in the file, and merge the others with the program that made it",
            )
        adapter = Adapter(entries[down], entries[up], entries.get(alpha))
        found[weight] = replace(found[weight], adapter=adapter)
        for used in (down, up, alpha):
            found.pop(used, None)
    return found


def has_adapters(names: Iterable[str]) -> bool:
    """True if one of these names is that of an adapter of any kind."""
    return any(re.search(ADAPTERS, name) for name in names)


def _matches(entries: Entries, names: Sequence[LoraNames]) -> list[tuple[str, str, str, str]]:
    """Weight, down, up and alpha, by name, of every name that matches the `down` of a form."""
    found = []
    for name in entries:
        for form in (*names, *KNOWN):
            if (match := re.fullmatch(form.down, name)) is not None:
                others = (match.expand(t) for t in (form.weight, form.up, form.alpha))
                weight, up, alpha = others
                found.append((weight, name, up, alpha))
                break
    return found


def _read_apart(
    entries: Entries, names: Sequence[LoraNames], path: str, where: str
) -> dict[str, Entry]:
    """The entries with their adapters, which stand in files of their own at `path`.

    Whole tensors there take the place of those of the same name (peft's `modules_to_save`).
    """
    place, prefix = split_prefix(path)
    held: Entries = strip_wrappers(resolve_scales(headers(find(path)), place), place)
    if prefix is not None:
        held = select_prefix(held, prefix, place)
    targets = {weight for weight, *_ in _matches(held, names)}
    if not targets:
        raise WamkitError(
            f"{place} holds no LoRA that is known here: found {few(sorted(held), 3)}",
            "name a folder or file of low-rank adapters, such as one of peft",
        )
    held = _without_prefix(held, targets, entries)
    found = pair_adapters({**entries, **held}, names)
    if unmatched := sorted(held.keys() & found.keys() - entries.keys()):
        raise WamkitError(
            f"{len(unmatched)} tensors of the LoRA in {place} belong to no weight of {where}: "
            f"{few(unmatched)}",
            "name the weights that the LoRA was made for, in the same layout",
        )
    return found


def _without_prefix(held: Entries, targets: set[str], entries: Entries) -> Entries:
    """The adapters without the prefix that their weights do not have, if all begin with one."""
    components = min(targets).split(".")
    for depth in range(1, len(components)):
        start = ".".join(components[:depth]) + "."
        if all(t.startswith(start) and t.removeprefix(start) in entries for t in targets):
            return {name.removeprefix(start): entry for name, entry in held.items()}
    return held


def resolve_lora_scales(entries: Entries, source: LoraSource, where: str) -> dict[str, Entry]:
    """The entries of a model, by its names, with the scale of every adapter.

    Raises WamkitError if factors do not fit their weight, or a scale is stated by nobody or by two
    in different ways.
    """
    adapters = {n: e.adapter for n, e in entries.items() if e.adapter is not None}
    if not adapters:
        return dict(entries)
    _expect_shapes(entries, adapters, where)
    scales = _scales({n: (entries[n].name, a) for n, a in adapters.items()}, source, where)
    return dict(entries) | {
        name: replace(entries[name], adapter=replace(adapter, scale=scales[name]))
        for name, adapter in adapters.items()
    }


def _expect_shapes(entries: Entries, adapters: Mapping[str, Adapter], where: str) -> None:
    """Raise WamkitError unless the factors of every adapter are floats and fit their weight."""
    wrong = []
    for name, adapter in sorted(adapters.items()):
        whole, down, up = entries[name].stored, adapter.down.shape, adapter.up.shape
        floats = {entries[name].dtype, adapter.down.dtype, adapter.up.dtype} <= set(FLOATS)
        fits = len(whole) > 1 and len(down) > 1 and len(up) > 1 and down[0] > 0
        fits = fits and up[0] == whole[0] and prod(up[1:]) == down[0]
        if not (floats and fits and prod(down[1:]) == prod(whole[1:])):
            wrong.append(f"{name} {list(whole)}: {adapter.up.name} {list(up)}, {list(down)}")
    if wrong:
        raise WamkitError(
            f"{len(wrong)} adapters of the LoRA in {where} do not fit their weights (weight, up, "
            f"down): {few(wrong, 4)}",
            "name the weights that the LoRA was made for",
        )


def _scales(
    adapters: Mapping[str, tuple[str, Adapter]], source: LoraSource, where: str
) -> dict[str, float]:
    """name -> alpha / rank, for adapters by name with the name of their weight in its file."""
    alphas, configs = _alphas(adapters), _configs(adapters)
    found: dict[str, float] = {}
    silent, disagreeing = [], []
    for name, (weight, adapter) in sorted(adapters.items()):
        rank = adapter.down.shape[0]
        stated: dict[str, float] = {}
        if adapter.alpha is not None and name in alphas:
            stated[adapter.alpha.name] = alphas[name] / rank
        elif (config := configs[adapter.down.file.parent]) is not None:
            layer = weight.replace(".base_layer", "").removesuffix(".weight")
            stated[str(config.file)] = config.scale(layer, rank)
        if source.scale is not None:
            stated[source.setting] = source.scale
        values = list(stated.values())
        if not values:
            silent.append(f"{adapter.down.name} (rank {rank})")
        elif not all(isclose(value, values[0], rel_tol=1e-6) for value in values):
            listed = ", ".join(f"{value:g} by {origin}" for origin, value in stated.items())
            disagreeing.append(f"{name}: {listed}")
        else:
            found[name] = values[0]
    if silent:
        rank = max(adapter.down.shape[0] for _, adapter in adapters.values())
        raise WamkitError(
            f"{where} holds a LoRA that is not merged into its weights, and nothing states its "
            f"scale: {len(silent)} adapters, such as {few(silent, 2)}",
            f"state alpha / rank, from the settings it was trained with: --set {source.setting}="
            f"VALUE, for example {source.setting}=2.0 if alpha was {2 * rank}",
        )
    if disagreeing:
        raise WamkitError(
            f"the scale of {len(disagreeing)} adapters in {where} is stated differently: "
            f"{few(disagreeing, 2)}",
            f"leave {source.setting} out",
        )
    return found


def _alphas(adapters: Mapping[str, tuple[str, Adapter]]) -> dict[str, float]:
    """name -> the alpha that its file states in a scalar."""
    by_file: dict[Path, dict[str, Entry]] = {}
    for name, (_, adapter) in adapters.items():
        if adapter.alpha is not None and prod(adapter.alpha.shape) == 1:
            by_file.setdefault(adapter.alpha.file, {})[name] = adapter.alpha
    found: dict[str, float] = {}
    for file, scalars in by_file.items():
        with open_weights(file) as source:
            found |= {name: float(source.tensor(entry)) for name, entry in scalars.items()}
    return found


def _configs(adapters: Mapping[str, tuple[str, Adapter]]) -> dict[Path, PeftConfig | None]:
    """folder -> the configuration of peft in it, for the folders that hold adapters."""
    folders = {adapter.down.file.parent for _, adapter in adapters.values()}
    return {folder: read_peft_config(folder) for folder in folders}
