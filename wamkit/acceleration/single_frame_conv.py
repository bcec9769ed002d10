"""Kernels by which a video VAE convolves a single picture in two dimensions, kept between calls.

A causal convolution looks back in time. Before the first picture of a clip there are zeros, or that
picture again; a picture alone meets one slice of the kernel, or all of them as their sum:

    past       0 0 |                       x x |
    kernel     a b c    =>  c              a b c    =>  a + b + c

Flat kernels lie with channels last in memory. A VAE that is a `Flat` makes them at its first
picture, and again when a weight was replaced, written to in place (which its version counter
tells), cast or moved. They are in no state dict and no copy, and gone while the VAE learns. They
take a third of the memory of kernels that reach over three pictures.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Past = Literal["zeros", "repeats"]
"""What a convolution sees before the first picture."""

KEPT = "_flat_kernel"  # where a convolution keeps its own


class Kernel:
    """A flat kernel, and which weight it was made of. A copy of it holds nothing."""

    def __init__(self, weight: Tensor | None = None, past: Past = "zeros") -> None:
        self.kernel = None if weight is None else _flattened(weight.detach(), past)
        self._weight = None if weight is None else weakref.ref(weight)
        self._mark = None if weight is None else _mark(weight)

    def holds(self, weight: Tensor) -> bool:
        """Whether it is what would be made of this weight now."""
        return self._weight is not None and self._weight() is weight and self._mark == _mark(weight)

    def __reduce__(self) -> tuple[type[Kernel], tuple[()]]:
        return Kernel, ()


class Flat(nn.Module):
    """A VAE that keeps the flat kernels of its encoder.

    It names its convolutions once (`keep_flat`), calls `ready` before it encodes a picture, and
    convolves by `convolved`. Who changes weights behind torch's back (`weight.data`) calls
    `forget`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._flat: tuple[Any, ...] = ()
        self._past: Past = "zeros"

    def keep_flat(self, convolutions: Iterable[nn.Conv3d], past: Past) -> None:
        """From now on keep the kernels of these."""
        self._flat, self._past = tuple(convolutions), past

    def ready(self) -> None:
        """Make every flat kernel that is missing or of another weight; none where weights learn."""
        if torch.compiler.is_compiling():  # compiled code is entered through who has just looked
            return
        if self.training or torch.is_grad_enabled():
            self.forget()
            return
        for conv in self._flat:
            weight, kept = conv._parameters.get("weight"), conv.__dict__.get(KEPT)
            if weight is not None and not (kept is not None and kept.holds(weight)):
                with torch.inference_mode(False):
                    conv.__dict__[KEPT] = Kernel(weight, self._past)

    def forget(self) -> None:
        """Keep nothing."""
        for conv in self._flat:
            conv.__dict__.pop(KEPT, None)

    def train(self, mode: bool = True) -> Flat:
        """As that of a module; nothing is kept."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Flat:
        """As that of a module, which moves and casts weights; nothing is kept."""
        self.forget()
        return super()._apply(fn, recurse)


def convolved(conv: nn.Conv3d, x: Tensor, past: Past) -> Tensor:
    """What a causal convolution makes of one picture by itself, [B, in, H, W] to [B, out, h, w].

    With channels last in memory, which it gives to what comes in, and zeros around the picture.
    """
    kept = conv.__dict__.get(KEPT)
    if kept is None or kept.kernel is None or torch.is_grad_enabled():
        kernel = _flattened(conv.weight, past)
    else:
        kernel = kept.kernel
    x = x.contiguous(memory_format=torch.channels_last)
    border: Any = conv.padding[1:]
    return F.conv2d(x, kernel, conv.bias, conv.stride[1:], border, conv.dilation[1:], conv.groups)


def _flattened(weight: Tensor, past: Past) -> Tensor:
    """A kernel [out, in, T, H, W] for one picture, [out, in, H, W]; sums are made in float32."""
    flat = weight[:, :, -1] if past == "zeros" else weight.float().sum(2).to(weight.dtype)
    return flat.contiguous(memory_format=torch.channels_last)


def _mark(weight: Tensor) -> tuple[int, int, torch.dtype]:
    """What is another after a weight was written to, moved or cast."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr(), weight.dtype
