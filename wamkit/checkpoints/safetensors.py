"""Safetensors in and out: every tensor accounted for, shapes compared first, files mapped.

A model is built on the meta device, its names and shapes are compared with what the files say, and
only then is each tensor mapped from its file and handed to the model. There is never a second copy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..config.parts import Weighted
from ..errors import WamkitError
from ..files.locate import split_prefix
from .assign import STORED, WRITER, assign
from .files import Entry, find, headers, write_tensors
from .finite import ORIGINS, fault, is_finite, non_finite_error
from .formats import code, differs_in_kind, few, resolve_scales
from .limits import limit_parameters
from .lora import (
    LoraNames,
    LoraSource,
    attach_adapters,
    has_adapters,
    pair_adapters,
    resolve_lora_scales,
)
from .prefixes import Entries, Fit, select_prefix, strip_prefix, strip_wrappers
from .renaming import rename

MOST_OTHERS = 20_000
"""Tensors that files may hold besides a model's own: averages, an optimizer, other models."""


@dataclass(frozen=True)
class CheckpointLayout:
    """Key mapping from one published checkpoint format to the names of a model here."""

    name: str
    detect_key: str
    """A regular expression that matches a name only files of this layout hold."""
    rules: tuple[tuple[str, str], ...] = ()
    """Regular expressions and replacements, applied in order to each name."""
    drop: tuple[str, ...] = ()
    """Names that carry no weights, as regular expressions."""
    splits: tuple[tuple[str, tuple[str, ...]], ...] = ()
    """Pattern for names, after `rules`, whose rows stack several tensors of ours (fused QKV), and
    the replacement for each; the number of rows of each follows from our shapes."""
    swap_halves: tuple[str, ...] = ()
    """Names, after `rules`, whose two halves of rows stand in the other order."""
    conv_to_linear: tuple[str, ...] = ()
    """Names, after `rules`, of 1 x 1 convolutions that are linear layers here."""
    lora: tuple[LoraNames, ...] = ()
    """Names of LoRA adapters that its files may hold, besides those that are always known
    (`wamkit.checkpoints.lora.KNOWN`); they are merged when their weights are read."""
    reshape: tuple[str, ...] = ()
    """Names, after `rules`, of tensors that have our values in our order and another shape, such as
    a linear layer over patches that is a convolution here."""
    transpose: tuple[str, ...] = ()
    """Names, after `rules`, whose last two axes stand in the other order."""

    def rename(self, name: str) -> tuple[str, ...]:
        """Our names for a tensor of this layout: none if it is dropped, several if it is split."""
        if any(re.search(pattern, name) for pattern in self.drop):
            return ()
        name = rename(name, self.rules)
        for pattern, replacements in self.splits:
            if re.search(pattern, name):
                return tuple(re.sub(pattern, replacement, name) for replacement in replacements)
        return (name,)

    def swaps_halves(self, name: str) -> bool:
        """True if the halves of our tensor `name` stand in the other order in this layout."""
        return any(re.search(pattern, name) for pattern in self.swap_halves)

    def transposes(self, name: str) -> bool:
        """True if the last two axes of our tensor `name` stand in the other order here."""
        return any(re.search(pattern, name) for pattern in self.transpose)

    def shape(
        self, name: str, shape: tuple[int, ...], expected: tuple[int, ...] | None = None
    ) -> tuple[int, ...]:
        """The shape that our tensor `name` has, if it is `shape` in this layout.

        `expected` is what it must be: it is, where the layout may reshape it and sizes agree.
        """
        may = any(re.search(pattern, name) for pattern in self.reshape)
        if may and expected is not None and prod(expected) == prod(shape):
            return expected
        if self.transposes(name):
            shape = (*shape[:-2], *shape[:-3:-1])
        is_pointwise_conv = any(re.search(pattern, name) for pattern in self.conv_to_linear)
        return shape[:2] if is_pointwise_conv and set(shape[2:]) == {1} else shape


def layout_of(
    names: Iterable[str], layouts: Sequence[CheckpointLayout], where: str
) -> CheckpointLayout:
    """The layout whose `detect_key` matches one of `names`. Raises WamkitError if none does."""
    names = list(names)
    if (found := _layout(names, layouts)) is not None:
        return found
    known = "; ".join(f"{d.name} (has {d.detect_key})" for d in layouts)
    sample = ", ".join(sorted(names)[:3]) or "nothing"
    what = f"{where} is in no layout known here: found {sample}, ...; known are {known}"
    raise _mismatch_error(what, names, "check that the files belong to this model and variant")


def _mismatch_error(what: str, names: Iterable[str], hint: str) -> WamkitError:
    """The error, with what the file is instead where that is known."""
    from .recognize import describe_file

    found = describe_file(list(names))
    return WamkitError(f"{what}\n  {found[0]}", found[1]) if found else WamkitError(what, hint)


def load(
    model: nn.Module,
    path: str | Path,
    *,
    layouts: Sequence[CheckpointLayout] = (),
    folders: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    lora: LoraSource | None = None,
) -> str:
    """Load the weights at `path` into `model`, built on the meta device; return the layout's name.

    Names and shapes of every tensor are compared before anything is allocated. Tensors whose dtype
    is right stay mapped to their file until they are written to; float8 is widened. A prefix that
    all names share is taken off (`wamkit.checkpoints.prefixes`), LoRA adapters are merged
    (`wamkit.checkpoints.lora`). Raises WamkitError listing all missing, unexpected and misshapen
    tensors, and those of another kind of dtype.
    """
    expected = _shapes(model)
    place, prefix = split_prefix(path)
    held = headers(find(path, folders))
    if len(held) > len(expected) + MOST_OTHERS:
        raise WamkitError(
            f"{place} holds {len(held):,} tensors, and this model has {len(expected):,}",
            "save the weights of the model alone, and name that file",
        )
    entries: Entries = strip_wrappers(resolve_scales(held, place), place)

    def fit(some: Entries) -> Fit | None:
        layout = _layout(some, layouts)
        ours = set(_rename_entries(some, layout, expected)) if layout else set()
        lost, extra = len(expected.keys() - ours), len(ours - expected.keys())
        return Fit(layout.name, lost, extra) if layout and lost < len(expected) else None

    if prefix is not None:
        entries = select_prefix(entries, prefix, place)
    lora = lora or LoraSource()
    entries = attach_adapters(entries, _lora_names(layouts), lora, place)
    entries = strip_prefix(entries, fit, place)
    layout = layout_of(entries, layouts, place) if layouts else CheckpointLayout("wamkit", "")
    assign(model, _matched(model, entries, layout, path, lora), dtype, device)
    return layout.name


def entries_of(
    model: nn.Module,
    entries: Entries,
    layouts: Sequence[CheckpointLayout],
    where: str,
    lora: LoraSource | None = None,
) -> dict[str, Entry]:
    """The entries of a model's tensors, under our names, from those of a checkpoint.

    Raises WamkitError listing all missing, unexpected and misshapen tensors, and those of another
    kind of dtype.
    """
    lora = lora or LoraSource()
    entries = attach_adapters(entries, _lora_names(layouts), lora, where)
    layout = layout_of(entries, layouts, where) if layouts else CheckpointLayout("wamkit", "")
    return _matched(model, entries, layout, where, lora)


def _lora_names(layouts: Sequence[CheckpointLayout]) -> list[LoraNames]:
    return [names for layout in layouts for names in layout.lora]


def _matched(
    model: nn.Module,
    entries: Entries,
    layout: CheckpointLayout,
    where: str | Path,
    lora: LoraSource,
) -> dict[str, Entry]:
    expected = _shapes(model)
    found = _rename_entries(entries, layout, expected)
    kinds = {k: v.dtype for k, v in model.state_dict(keep_vars=True).items()}
    _compare(kinds, expected, found, where)
    return resolve_lora_scales(found, lora, str(where))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(v.shape) for k, v in model.state_dict(keep_vars=True).items()}


def _layout(names: Iterable[str], layouts: Sequence[CheckpointLayout]) -> CheckpointLayout | None:
    """The first layout whose `detect_key` matches one of `names`; wamkit's own without layouts."""
    if not layouts:
        return CheckpointLayout("wamkit", "")
    return next((d for d in layouts if any(re.search(d.detect_key, n) for n in names)), None)


def _rename_entries(
    entries: Mapping[str, Entry], layout: CheckpointLayout, expected: Mapping[str, tuple[int, ...]]
) -> dict[str, Entry]:
    """The tensors of a file under our names, pieces of stacked ones included."""
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        names = layout.rename(name)
        if len(names) == 1:
            (new,) = names
            found[new] = replace(
                entry,
                shape=layout.shape(new, entry.shape, expected.get(new)),
                swap_halves=layout.swaps_halves(new),
                transpose=layout.transposes(new),
            )
            continue
        sizes = [expected[new][0] if expected.get(new) else 0 for new in names]
        if names and sum(sizes) != entry.shape[0]:
            found[name] = entry  # no stack of ours: reported as unexpected, under its own name
            continue
        ends = accumulate(sizes, initial=0)
        for new, (start, end) in zip(names, pairwise(ends), strict=True):
            shape = (end - start, *entry.shape[1:])
            found[new] = replace(entry, shape=shape, rows=(start, end))
    return found


def _compare(
    kinds: Mapping[str, torch.dtype],
    expected: Mapping[str, tuple[int, ...]],
    found: Mapping[str, Entry],
    path: str | Path,
) -> None:
    problems = []
    if missing := sorted(set(expected) - set(found)):
        problems.append(f"{len(missing)} missing: {few(missing)}")
    if unexpected := sorted(set(found) - set(expected)):
        names = [found[k].name for k in unexpected]
        problems.append(f"{len(unexpected)} unexpected: {few(names)}")
    wrong = [
        f"{k} {list(found[k].shape)} for {list(expected[k])}"
        for k in sorted(set(expected) & set(found))
        if found[k].shape != expected[k]
    ]
    if wrong:
        problems.append(f"{len(wrong)} of another shape (found for expected): {few(wrong)}")
    hint = "check the variant; `wamkit show KIND NAME` prints its sizes"
    wrong_dtypes = [
        f"{k} {found[k].dtype} for {code(kinds[k])}"
        for k in sorted(set(expected) & set(found))
        if differs_in_kind(found[k].dtype, kinds[k])
    ]
    if wrong_dtypes:
        problems.append(
            f"{len(wrong_dtypes)} of another kind of dtype (found for expected): "
            f"{few(wrong_dtypes)}"
        )
        hint = "integer weights need the scales they were quantized with: use a floating-point file"
    if problems:
        what = f"the weights at {path} do not fit this model\n  " + "\n  ".join(problems)
        of_file = [entry.name for entry in found.values()]
        if len(missing) <= len(expected) / 2 and not has_adapters(of_file):
            raise WamkitError(what, hint)
        raise _mismatch_error(what, of_file, hint)


def as_stored(model: nn.Module, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """The state of a model, each tensor in the dtype that its file has, or its floats in `dtype`.

    Raises WamkitError if a value becomes infinite in `dtype`.
    """
    known: dict[str, torch.dtype] = {}
    for place, module in model.named_modules():
        for name, kind in getattr(module, STORED, {}).items():
            known[f"{place}.{name}" if place else name] = kind
    state: dict[str, Tensor] = {}
    large = []
    for name, tensor in model.state_dict().items():
        expected = known.get(name, tensor.dtype) if dtype is None else dtype
        state[name] = tensor.to(expected) if tensor.is_floating_point() else tensor
        if dtype is not None and tensor.is_floating_point() and tensor.dtype != dtype:
            lost = torch.isfinite(tensor) & ~torch.isfinite(state[name])
            large += [name] if bool(lost.any()) else []
    if large:
        raise WamkitError(
            f"{len(large)} tensors hold values that are infinite in {code(dtype)}: {few(large)}"
            if dtype
            else "",
            "choose bfloat16 or float32",
        )
    return state


def save(model: nn.Module, path: str | Path) -> int:
    """Write the state of `model` to one safetensors file; return the number of its tensors."""
    return write(model.state_dict(), path)


def save_like(
    model: nn.Module | Mapping[str, Tensor],
    path: str | Path,
    like: str | Path,
    layouts: Sequence[CheckpointLayout],
) -> int:
    """Write a model, or its state, in the layout of the file `like`, under that file's names.

    What `load` split, swapped or squeezed is put together again; tensors of `like` that carry no
    weights are left out, and so are LoRA adapters, which are merged in the model. Raises
    WamkitError if a tensor of the model has no place there.
    """
    place, prefix = split_prefix(like)
    ours = model.state_dict() if isinstance(model, nn.Module) else model
    whole: Entries = resolve_scales(headers(find(like)), place)
    inner = strip_wrappers(whole if prefix is None else select_prefix(whole, prefix, place), place)
    inner = pair_adapters(inner, _lora_names(layouts))
    layout = layout_of(inner, layouts, place)
    state: dict[str, Tensor] = {}
    used: set[str] = set()
    for name, entry in inner.items():
        names = [new for new in layout.rename(name) if new in ours]
        if not names:
            continue
        parts = [ours[new] for new in names]
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if layout.swaps_halves(names[0]):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if layout.transposes(names[0]):
            tensor = tensor.transpose(-1, -2)
        if tensor.numel() != prod(entry.shape):
            raise WamkitError(
                f"{name} has shape {list(entry.shape)} in {like}, {list(tensor.shape)} here",
                "name a file of the same variant",
            )
        state[entry.name] = tensor.reshape(entry.shape)
        used.update(names)
    if unmatched := sorted(set(ours) - used):
        raise WamkitError(
            f"{like} has no place for {len(unmatched)} tensors: {few(unmatched)}",
            "name a file of the same variant",
        )
    return write(state, path)


def write(state: Mapping[str, Tensor], path: str | Path) -> int:
    """Write weights to one safetensors file atomically (`checkpoints.files.write_tensors`).

    Returns the number of tensors. Raises NotWrittenError if there is no room.
    """
    write_tensors(state, Path(path), {"format": "pt", "writer": WRITER})
    return len(state)


def parameters(model: nn.Module) -> int:
    """Number of parameters; works on the meta device."""
    return sum(prod(p.shape) for p in model.parameters())


def materialize(
    make: Callable[[], nn.Module],
    path: str | None,
    *,
    layouts: Sequence[CheckpointLayout] = (),
    folders: Sequence[str] = (),
    lora: LoraSource | None = None,
) -> nn.Module:
    """A model with the weights at `path`, mapped, in their own dtype; random ones for None."""
    if path is None:
        return make()
    with torch.device("meta"), limit_parameters(f"the model of {path}"):
        model = make()
    load(model, path, layouts=layouts, folders=folders, lora=lora)
    return model


def materialize_part(part: Weighted, make: Callable[[], nn.Module], folders: Sequence[str]) -> Any:
    """A model with the weights, and the LoRA adapters, that a part names; random ones if none."""
    lora = LoraSource.of(part.kind, part)
    return materialize(make, part.weights, layouts=part.layouts(), folders=folders, lora=lora)


def cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """`model` in `dtype`, parameter by parameter; names that match `keep_float32` stay float32.

    A model may carry `keep_float32`, regular expressions for what its reference computes in
    float32 whatever the rest runs in: time embeddings, modulation tables, norms.
    """
    kept = tuple(getattr(model, "keep_float32", ()))
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if not tensor.is_floating_point():
            continue
        expected = torch.float32 if any(re.search(p, name) for p in kept) else dtype
        if tensor.dtype != expected:
            before, tensor.data = tensor.dtype, tensor.data.to(expected)
            if isinstance(tensor, nn.Parameter) and not is_finite(tensor):
                origin = getattr(model, ORIGINS, {}).get(name, name)
                raise non_finite_error([f"{origin}, from {before} to {expected}: {fault(tensor)}"])
    return model
