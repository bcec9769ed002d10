"""Tensors on a device without waiting for it."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor


def constant(
    values: tuple[float, ...] | tuple[int, ...] | tuple[bool, ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Python numbers as a tensor [n] on a device, sent there once; nobody writes to it.

    Made anew at every call, it would wait for a CUDA device each time, and could not be captured in
    a graph.
    """
    return _constant(values, dtype, device, torch.get_default_dtype())


# As torch.compiler.assume_constant_result, which imports the compiler: its code holds the tensor.
constant._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache  # none is forgotten: a captured graph reads it where it lies
def _constant(
    values: tuple[float, ...], dtype: torch.dtype, device: torch.device, _default: torch.dtype
) -> (
    Tensor
):  # by the default dtype, too: `wamkit.testing.tolerance.float64` reads float32 as float64
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def to_device(x: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; the host does not wait until it is there."""
    return x.to(device, non_blocking=device.type == "cuda")


def detach_storage(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same tensors; those cut from a larger one, which would keep it in memory, as copies."""
    if torch.is_grad_enabled():
        return tensors
    form = torch.contiguous_format
    return tuple(
        x if x.untyped_storage().nbytes() == x.nbytes else x.clone(memory_format=form)
        for x in tensors
    )
