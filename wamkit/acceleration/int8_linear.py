"""Linear layers whose products are of 8-bit integers, on x86 processors, by torch's own kernel.

    x [S, inputs] --/ largest of a row--> 8 bits --* weight in 8 bits--> * largest of a row, + bias

torch rounds an input with one scale for all its rows (`torch.ops.quantized.linear_dynamic`). Rows
that are brought to the same size first have a scale each, which costs next to nothing, and makes
the error that of torchao's scheme. Without instructions for sums of products of 8 bits (VNNI) the
kernel needs inputs of 7 bits, or its sums overflow; which it is is tried out once.

torch 2.15 says that the form in which the kernel takes a weight (`torch.qint8`) is to go. Where it
is gone, `fits` is False, and torchao's layers are taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterable
from functools import cache
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

ENGINES = ("x86", "fbgemm")
"""Of `torch.backends.quantized.engine`: those with a weight's scale for each of its rows."""


class PackedWeight:
    """A weight as the kernel wants it. A copy of it is itself: it never changes."""

    def __init__(self, weight: Tensor) -> None:
        """`weight` [outputs, inputs] of any floating dtype; each row is rounded by itself."""
        weight = weight.detach().float().contiguous()
        scale = (weight.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny).double()
        zero = torch.zeros(len(scale), dtype=torch.long)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*quantize_per_channel.*deprecated")
            rounded = torch.quantize_per_channel(weight, scale, zero, 0, torch.qint8)
        self.weight = torch.ops.quantized.linear_prepack(rounded, None)

    def times(self, x: Tensor, *, reduce_range: bool) -> Tensor:
        """[S, inputs] float32 to [S, outputs]; with `reduce_range` inputs are rounded to 7 bits."""
        return torch.ops.quantized.linear_dynamic(x, self.weight, reduce_range)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: Any) -> PackedWeight:
        return self


_packed: WeakValueDictionary[int, PackedWeight] = WeakValueDictionary()
_numbers = count()


class Int8Linear(nn.Module):
    """A linear layer with its weight, and each row of its input, rounded to 8 bits. It only acts.

    The packed weight is no tensor: compiled code is handed its id, as a tensor, and one that
    has only the weight's shape.
    """

    weight_id: Tensor  # []
    shape: Tensor  # [outputs, inputs] in one byte
    bias: Tensor | None  # [outputs]

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed, weight_id = PackedWeight(layer.weight), next(_numbers)
        _packed[weight_id] = self.packed
        bias = None if layer.bias is None else layer.bias.detach()
        shape = torch.zeros((), dtype=torch.int8).expand(layer.weight.shape)
        self.register_buffer("weight_id", torch.tensor(weight_id), persistent=False)
        self.register_buffer("shape", shape, persistent=False)
        self.register_buffer("bias", bias, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        rows = x.reshape(-1, self.in_features).float()
        largest = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        y = product(rows / largest, self.weight_id, self.shape) * largest
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """The sizes."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


@torch.library.custom_op("wamkit::int8_linear", mutates_args=(), device_types="cpu")
def product(x: Tensor, weight_id: Tensor, shape: Tensor) -> Tensor:
    """[S, inputs] float32 times the packed weight of this id, which has that shape."""
    return _packed[int(weight_id)].times(x, reduce_range=overflows())


@product.register_fake
def _(x: Tensor, weight_id: Tensor, shape: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], shape.shape[0])


@register_flop_formula(torch.ops.wamkit.int8_linear)  # type: ignore[untyped-decorator]
def _operations(x: Any, weight_id: Any, shape: Any, *_: Any, **__: Any) -> int:
    return int(2 * x[0] * x[1] * shape[0])


def fits(device: torch.device) -> bool:
    """True if a device runs these layers."""
    has = hasattr(torch, "quantize_per_channel") and hasattr(torch.ops.quantized, "linear_dynamic")
    return has and device.type == "cpu" and torch.backends.quantized.engine in ENGINES


@cache
def overflows() -> bool:
    """True if sums of products overflow here where inputs have 8 bits."""
    x, weight = torch.ones(1, 64), torch.ones(64, 64)
    found = PackedWeight(weight).times(x, reduce_range=False)
    return bool((found - 64).abs().max() > 1)


def round_layers(roots: Iterable[nn.Module], layers: Collection[nn.Module]) -> None:
    """Put `Int8Linear` in the place of each of `layers` below `roots`; shared ones stay shared."""
    made: dict[nn.Module, Int8Linear] = {}
    for root in roots:
        for module in list(root.modules()):
            for name, child in module.named_children():
                if child in layers:
                    assert isinstance(child, nn.Linear)
                    made[child] = made.get(child) or Int8Linear(child)
                    setattr(module, name, made[child])
