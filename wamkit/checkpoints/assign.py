"""Read the tensors of a model from their files, and put them in the places of its meta tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from .files import ALIGNED, Entry, merged_dtype, open_weights
from .finite import ORIGINS, SMALL, WHOLE, fault, non_finite_error
from .formats import FLOAT8, OF_CODE, plain_float8_dtype
from .prefixes import Entries

WRITER = "wamkit"
STORED = "_stored_dtypes"  # attribute of a loaded model: the dtype of each tensor in its file


def assign(
    model: nn.Module,
    entries: Mapping[str, Entry],
    dtype: torch.dtype | None,
    device: torch.device | str,
) -> None:
    """Replace every meta tensor of `model` by the one in its file.

    Raises WamkitError with every parameter that is found not to be finite
    (`wamkit.checkpoints.finite` says which are looked at).
    """
    by_file: dict[Path, list[str]] = {}
    for name, entry in entries.items():
        by_file.setdefault(entry.file, []).append(name)
    parameters = {name for name, _ in model.named_parameters()}
    whole = sum(file.stat().st_size for file in by_file) <= WHOLE
    origins, bad = {}, []
    scales, factors = scales_of(entries, device), factors_of(entries, device)
    wide = plain_float8_dtype(entries)
    stored = {name: saved_dtype(entry) for name, entry in entries.items()}
    for file, names in by_file.items():
        with open_weights(file, device) as source:
            ours = source.metadata.get("writer") == WRITER
            for name in names:
                key = entries[name].name
                tensor = source.tensor(entries[name], scales.get(key), factors.get(key))
                plain = entries[name].scale is None and key not in factors
                if entries[name].dtype in FLOAT8 and plain:
                    tensor = tensor.to(wide)
                if ours and tensor.data_ptr() % ALIGNED:
                    tensor = tensor.clone()  # the few whose neighbors have odd sizes
                converted = entries[name].dtype in FLOAT8 or key in factors
                if dtype not in (None, tensor.dtype) and tensor.is_floating_point():
                    converted, tensor = True, tensor.to(dtype)
                origins[name] = f"{entries[name].name} of {file}"
                checked = whole or converted or tensor.numel() * tensor.itemsize <= SMALL
                if checked and name in parameters and (wrong := fault(tensor)) is not None:
                    bad.append(f"{origins[name]}: {wrong}")
                _set_tensor(model, name, tensor)
    if bad:
        raise non_finite_error(bad)
    setattr(model, ORIGINS, origins)
    setattr(model, STORED, stored)


def saved_dtype(entry: Entry) -> torch.dtype:
    """The dtype in which a tensor is saved: that of its file, or float32 if it was scaled.

    The widest of it and its adapter, if that was merged.
    """
    own = OF_CODE[entry.dtype] if entry.scale is None else torch.float32
    if entry.adapter is None:
        return own
    return merged_dtype(own, *(OF_CODE[e.dtype] for e in (entry.adapter.down, entry.adapter.up)))


def scales_of(entries: Entries, device: torch.device | str) -> dict[str, Tensor]:
    """Return the scale of each float8 weight, by the name of the weight in its file."""
    found: dict[str, Tensor] = {}
    by_file: dict[Path, list[Entry]] = {}
    for entry in entries.values():
        if entry.scale is not None:
            by_file.setdefault(entry.scale.file, []).append(entry)
    for file, file_entries in by_file.items():
        with open_weights(file, device) as source:
            found |= {e.name: source.tensor(e.scale) for e in file_entries if e.scale is not None}
    return found


def factors_of(entries: Entries, device: torch.device | str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the factors of each adapter, down and up, by the name of its weight in its file."""
    found: dict[Entry, Tensor] = {}
    by_file: dict[Path, list[Entry]] = {}
    adapters = {e.name: e.adapter for e in entries.values() if e.adapter is not None}
    for adapter in adapters.values():
        for factor in (adapter.down, adapter.up):
            by_file.setdefault(factor.file, []).append(factor)
    for file, factors in by_file.items():
        with open_weights(file, device) as source:
            found |= {factor: source.tensor(factor) for factor in factors}
    return {name: (found[a.down], found[a.up]) for name, a in adapters.items()}


def _set_tensor(model: nn.Module, name: str, tensor: Tensor) -> None:
    owner, _, last = name.rpartition(".")
    module = model.get_submodule(owner)
    old = getattr(module, last)
    if isinstance(old, nn.Parameter):
        setattr(module, last, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        module._buffers[last] = tensor
