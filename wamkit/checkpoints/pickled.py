"""Pickled checkpoints of torch (.pt, .bin, ...), read as data only: tensors by name, mapped.

Tensors are views of the mapped file; none may have more bytes than the file stores for it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import WamkitError
from ..files.pickle_scan import AGAIN, STATE, Records, scan
from ..files.placeholders import refuse_placeholder
from ..files.safetensors_header import MOST_AXES, expect_few, expect_name

DEPTH = 32
"""How deep tables of a checkpoint may be nested."""
MOST_VALUES = 1_000_000
"""The most values in its tables, each counted as often as it is reached."""
MOST_SHARED = 8
"""Limit for the bytes of all tensors, in multiples of the size of the file."""


def tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint; names of nested tables are joined by dots.

    Raises WamkitError if the file is damaged, or holds what cannot be weights.
    """
    return dict(_tensors_at(file, file.stat().st_mtime_ns))


@lru_cache(maxsize=1)
def _tensors_at(file: Path, _changed: int) -> dict[str, Tensor]:
    refuse_placeholder(file)
    known = scan(file, _safe_globals())
    storages: dict[int, int] = {}
    content = _load_content(file, known, storages)
    found: dict[str, Tensor] = {}
    for name, tensor in _iter_tensors(content, file):
        expect_name(name, str(file))
        if name in found:
            raise WamkitError(
                f"{file} holds a tensor {name} twice, in one table and another", STATE
            )
        if (fault := _fault(tensor, storages)) is not None:
            raise WamkitError(f"{file} holds {fault} in place of a tensor: {name}", STATE)
        found[name] = tensor.detach()
        expect_few(found, len(found), str(file))
    if not found:
        raise WamkitError(f"{file} holds a {type(content).__name__} without tensors by name", STATE)
    total, size = sum(t.numel() * t.itemsize for t in found.values()), file.stat().st_size
    if total > MOST_SHARED * size:
        raise WamkitError(
            f"{file} has {size:,} bytes, and its tensors stand for {total:,}: they share storages",
            STATE,
        )
    warnings.warn(f"{file} is pickled; `wamkit weights convert` makes it safetensors", stacklevel=4)
    return found


def _safe_globals() -> list[str]:
    """The globals that the user has called safe with `torch.serialization.add_safe_globals`."""
    paths = []
    for one in torch.serialization.get_safe_globals():
        known = one[1] if isinstance(one, tuple) else one
        paths.append(
            known if isinstance(known, str) else f"{known.__module__}.{known.__qualname__}"
        )
    return [" ".join(path.rsplit(".", 1)) for path in paths]


def _load_content(file: Path, known: Records, storages: dict[int, int]) -> Any:
    """Load the saved object; record the address and size of each storage in `storages`."""

    def place(storage: Any, location: str) -> Any:
        size = storage.nbytes()
        if known.zipped and size not in known.sizes:
            raise ValueError(f"a storage is to have {size:,} bytes, and no record has as many")
        storages[storage.data_ptr()] = size
        return storage

    try:
        return torch.load(file, map_location=place, mmap=known.zipped, weights_only=True)
    except Exception as error:  # a damaged pickle may raise any type
        if "resiz" in str(error) or "out of bounds" in str(error):
            raise WamkitError(
                f"{file} holds a tensor that reaches beyond its storage", AGAIN
            ) from None
        message = str(error).strip().rpartition("WeightsUnpickler error: ")[2]
        reason = (
            (message.strip() or type(error).__name__).splitlines()[0].partition(" This is an")[0]
        )
        raise WamkitError(
            f"{file} is no checkpoint that can be read as data alone: {reason[:200]}", AGAIN
        ) from None


def _iter_tensors(content: Any, file: Path) -> Iterator[tuple[str, Tensor]]:
    """Yield name and tensor from nested tables; skip other values."""
    count = 0
    stack: list[tuple[tuple[Any, ...], Any]] = [((), content)]
    while stack:
        keys, value = stack.pop()
        if isinstance(value, Tensor):
            if bad := [key for key in keys if type(key) not in (str, int)]:
                raise WamkitError(
                    f"{file} holds a tensor by a {type(bad[0]).__name__}, expected names", STATE
                )
            yield ".".join(map(str, keys)), value
        elif isinstance(value, Mapping):
            count += len(value)
            if len(keys) >= DEPTH or count > MOST_VALUES:
                raise WamkitError(
                    f"{file} holds tables nested deeper than {DEPTH}, or more than {MOST_VALUES:,} "
                    "values in them",
                    STATE,
                )
            stack += [((*keys, key), inner) for key, inner in reversed(list(value.items()))]


def _fault(tensor: Tensor, storages: Mapping[int, int]) -> str | None:
    """Describe a tensor that is not a plain one with all values in the file; None if it is fine."""
    if type(tensor) not in (Tensor, nn.Parameter):
        return f"a {type(tensor).__name__}"
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        return "a sparse, nested, quantized or empty tensor"
    if tensor.is_conj() or tensor.is_neg():
        return "a tensor that is yet to be conjugated or negated"
    if tensor.ndim > MOST_AXES:
        return f"a tensor of {tensor.ndim:,} axes"
    if not tensor.numel():
        return None
    held = storages.get(tensor.untyped_storage().data_ptr())
    if held is None:
        return "a tensor whose values are not in the file"
    needed = tensor.numel() * tensor.itemsize
    if needed > held:
        return f"a view of {needed:,} bytes of a storage of {held:,}"
    return None
