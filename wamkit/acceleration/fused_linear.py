"""Linear layers that read the same input, computed as one where gradients are off.

A module names groups of such layers, largest first, and calls them by `fused_linear`:

    fuse_groups = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    weight  [ to_q | to_k | to_v ]   one piece of memory; every layer's own weight is a view of it

`fuse` moves the weights of a group into one contiguous tensor. Parameters stay parameters
of their layers: names, values, saving, loading and training do not change, and nothing is held
twice. What is later moved, replaced, wrapped or watched by hooks is called layer by layer again.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MAX_FUSED_ON_CPU = 2**20
"""Elements of the largest row that is fused on the CPU; three layers of 512 x 512 have fewer.
Beyond, one product takes as long as several, and weights that are mapped from a file stay so."""

FUSED = "_fused"  # where a module keeps its own: names of layers -> FusedLinear


class FusedLinear:
    """Layers whose weights are adjacent in memory, as one weight. A copy of it is empty."""

    def __init__(
        self,
        owner: nn.Module | None = None,
        names: Sequence[str] = (),
        weight: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> None:
        self.weight = weight  # [outputs of all layers, inputs]
        self.bias = bias  # [outputs of all layers]
        self.layers = {} if owner is None else owner._modules
        found: list[Any] = [self.layers[name] for name in names]
        self.sizes = [layer.out_features for layer in found]
        self._data_ptrs = [(n, *_data_ptrs(x)) for n, x in zip(names, found, strict=True)]

    def is_valid(self) -> bool:
        """Whether the layers are unchanged and their weights are still views of this memory."""
        layers = self.layers
        for name, weight, bias in self._data_ptrs:  # written out: this runs in every layer and step
            layer: Any = layers[name]
            if type(layer) is not nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
                return False
            own: Any = layer._parameters
            if own["weight"].data_ptr() != weight:
                return False
            if (0 if own["bias"] is None else own["bias"].data_ptr()) != bias:
                return False
        return self.weight is not None

    def unfuse(self) -> None:
        """Give each layer whose weights are still views of this memory its own memory again."""
        here = {_storage(x) for x in (self.weight, self.bias) if x is not None}
        for name, *_ in self._data_ptrs:
            if type(layer := self.layers[name]) is nn.Linear:
                for parameter in layer.parameters():
                    if type(parameter.data) is Tensor and _storage(parameter) in here:
                        parameter.data = parameter.data.clone()

    def __reduce__(self) -> tuple[type[FusedLinear], tuple[()]]:
        return FusedLinear, ()


def fused_linear(owner: nn.Module, x: Tensor, *names: str) -> tuple[Tensor, ...]:
    """The outputs [..., outputs] of the layers `names` of `owner` for x [..., inputs], one each."""
    rows = owner.__dict__.get(FUSED)
    if rows is not None and not torch.is_grad_enabled():
        row = rows.get(names)
        # Compiled code is entered through a policy that has just looked (`Policy.sample`).
        if row is not None and (torch.compiler.is_compiling() or row.is_valid()):
            return F.linear(x, row.weight, row.bias).split(row.sizes, -1)
    return tuple([getattr(owner, name)(x) for name in names])


@torch.no_grad()
def fuse(root: nn.Module) -> list[FusedLinear]:
    """Fuse what can be fused below `root`, one row of layers at a time; all rows that hold.

    Left alone are layers that are no plain `nn.Linear`, that are absent, on the meta device or
    watched by hooks, those that differ in inputs, dtype, device, or in having a bias, and on the
    CPU large ones.
    """
    owners = [module for module in root.modules() if getattr(type(module), "fuse_groups", ())]
    with torch.inference_mode(False):
        for owner in owners:
            rows = {names: _fuse_layers(owner, names) for names in type(owner).fuse_groups}  # type: ignore[attr-defined]
            owner.__dict__[FUSED] = {k: row for k, row in rows.items() if row is not None}
    kept: list[FusedLinear] = []
    for owner in owners:  # a weight that two owners share lies with the second
        holding = {k: row for k, row in owner.__dict__.pop(FUSED).items() if row.is_valid()}
        if holding:
            owner.__dict__[FUSED] = holding
            kept += list(holding.values())
    return kept


@torch.no_grad()
def unfuse(root: nn.Module) -> None:
    """Undo `fuse`: every weight has memory of its own again."""
    with torch.inference_mode(False):
        for module in root.modules():
            for row in module.__dict__.pop(FUSED, {}).values():
                row.unfuse()


def _fuse_layers(owner: nn.Module, names: Sequence[str]) -> FusedLinear | None:
    layers: list[Any] = [owner._modules.get(name) for name in names]
    if not all(_plain(layer) for layer in layers):
        return None
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    kinds = {(w.shape[1], w.dtype, w.device, type(w.data)) for w in weights}
    kinds |= {(weights[0].shape[1], b.dtype, b.device, type(b.data)) for b in biases}
    if (
        len(kinds) > 1
        or (weights[0].is_cpu and sum(w.numel() for w in weights) > MAX_FUSED_ON_CPU)
        or len(biases) not in (0, len(layers))
        or len({id(w) for w in weights}) < len(layers)
        or weights[0].is_meta
        or weights[0].is_inference()
        or type(weights[0].data) is not Tensor
    ):
        return None
    return FusedLinear(
        owner, names, _concat_storage(weights), _concat_storage(biases) if biases else None
    )


def _plain(layer: nn.Module | None) -> bool:
    """Whether a layer does nothing but multiply by its weight, and nobody watches it."""
    return type(layer) is nn.Linear and not (layer._forward_hooks or layer._forward_pre_hooks)


def _data_ptrs(layer: nn.Module) -> tuple[int, int]:
    """Where the weight and the bias of a layer lie in memory; 0 for none."""
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    return 0 if weight is None else weight.data_ptr(), 0 if bias is None else bias.data_ptr()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _concat_storage(parts: Sequence[nn.Parameter]) -> Tensor:
    """Parameters of equal inputs as one tensor, of which each is a view from now on."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    if _are_adjacent(parts):
        strides = (*parts[0].shape[1:], 1)
        return parts[0].data.as_strided(shape, strides)
    whole = torch.empty(shape, dtype=parts[0].dtype, device=parts[0].device)
    for part, piece in zip(parts, whole.split([len(part) for part in parts]), strict=True):
        part.data = piece.copy_(part.data)
    return whole


def _are_adjacent(parts: Sequence[nn.Parameter]) -> bool:
    return (
        len({_storage(part) for part in parts}) == 1
        and all(part.is_contiguous() for part in parts)
        and all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in pairwise(parts))
    )
