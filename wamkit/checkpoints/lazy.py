"""Tensors of checkpoints by name, each read from its file when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from .assign import factors_of, saved_dtype, scales_of
from .files import Entry, open_weights
from .finite import fault, non_finite_error
from .formats import FLOAT8, plain_float8_dtype


class LazyTensors(Mapping[str, Tensor]):
    """Tensors by our names, in the dtypes of their files; float8 is widened, LoRA is merged.

    Reading one raises WamkitError if it holds NaN or infinity.
    """

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        self.entries = entries

    @cached_property
    def _scales(self) -> dict[str, Tensor]:
        return scales_of(self.entries, "cpu")

    @cached_property
    def _factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return factors_of(self.entries, "cpu")

    def describe(self, name: str) -> Tensor:
        """A tensor on the meta device, of the dtype and the shape that reading will give."""
        entry = self.entries[name]
        dtype = self._wide if self._is_widened(entry) else saved_dtype(entry)
        return torch.empty(entry.shape, dtype=dtype, device="meta")

    @cached_property
    def _wide(self) -> torch.dtype:
        return plain_float8_dtype(self.entries) or torch.float32

    @staticmethod
    def _is_widened(entry: Entry) -> bool:
        return entry.dtype in FLOAT8 and entry.scale is None and entry.adapter is None

    def __getitem__(self, name: str) -> Tensor:
        entry = self.entries[name]
        with open_weights(entry.file) as source:
            key = entry.name
            tensor = source.tensor(entry, self._scales.get(key), self._factors.get(key))
        if self._is_widened(entry):
            tensor = tensor.to(self._wide)
        if tensor.is_floating_point() and (wrong := fault(tensor)) is not None:
            raise non_finite_error([f"{entry.name} of {entry.file}: {wrong}"])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)
