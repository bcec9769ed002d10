"""Counts the bytes of tensors that are alive while something runs, on the meta device or a CPU."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from .cost import Counter


class LiveBytes(Counter):
    """Counts operations, and the bytes alive of all that is made within, besides known tensors."""

    def __init__(self, known: Iterable[Tensor] = (), device: str = "meta") -> None:
        super().__init__()
        self.now = self.most = 0
        self._device = device
        self._known = {x.untyped_storage()._cdata for x in known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = super().__torch_dispatch__(func, types, args, kwargs)
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and x.device.type == self._device:
                self._hold(x.untyped_storage())
        return out

    def _hold(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
