"""Conv3d of a single frame, folded to Conv2d: the kernels of a video VAE, kept between calls.

A causal convolution looks back in time. Before the first frame of a clip there are zeros, or that
frame again; a single frame meets one slice of the kernel, or the sum of all slices:

    past       0 0 |                       x x |
    kernel     a b c    =>  c              a b c    =>  a + b + c

Folded kernels are channels-last in memory. A `SingleFrameVAE` makes them at its first single
frame, and again when a weight was replaced, written to in place (which its version counter
tells), cast or moved. They are in no state dict and no copy, and gone while the VAE learns. They
take a third of the memory of kernels that reach over three images.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TimePadding = Literal["zeros", "repeats"]
"""What a convolution sees before the first image."""

FOLDED = "_flat_kernel"  # where a convolution keeps its own


class FoldedKernel:
    """A folded kernel, and the weight it was made of. A copy of it is empty."""

    def __init__(self, weight: Tensor | None = None, past: TimePadding = "zeros") -> None:
        self.kernel = None if weight is None else fold_time_axis(weight.detach(), past)
        self._weight = None if weight is None else weakref.ref(weight)
        self._mark = None if weight is None else _mark(weight)

    def is_valid(self, weight: Tensor) -> bool:
        """Whether it still is the folded kernel of this weight."""
        return self._weight is not None and self._weight() is weight and self._mark == _mark(weight)

    def __reduce__(self) -> tuple[type[FoldedKernel], tuple[()]]:
        return FoldedKernel, ()


class SingleFrameVAE(nn.Module):
    """A VAE that keeps the folded kernels of its encoder.

    It names its convolutions once (`fold_convs`), calls `fold_kernels` before it encodes a single
    frame, and convolves by `single_frame_conv`. Call `forget` after a change of `weight.data`,
    which no version counter shows.
    """

    def __init__(self) -> None:
        super().__init__()
        self._flat: tuple[Any, ...] = ()
        self._past: TimePadding = "zeros"

    def fold_convs(self, convolutions: Iterable[nn.Conv3d], past: TimePadding) -> None:
        """From now on keep the kernels of these."""
        self._flat, self._past = tuple(convolutions), past

    def fold_kernels(self) -> None:
        """Fold every kernel that is missing or outdated; none in training."""
        if torch.compiler.is_compiling():  # compiled code is entered through who has just looked
            return
        if self.training or torch.is_grad_enabled():
            self.forget()
            return
        for conv in self._flat:
            weight, kept = conv._parameters.get("weight"), conv.__dict__.get(FOLDED)
            if weight is not None and not (kept is not None and kept.is_valid(weight)):
                with torch.inference_mode(False):
                    conv.__dict__[FOLDED] = FoldedKernel(weight, self._past)

    def forget(self) -> None:
        """Keep nothing."""
        for conv in self._flat:
            conv.__dict__.pop(FOLDED, None)

    def train(self, mode: bool = True) -> SingleFrameVAE:
        """As that of a module; nothing is kept."""
        self.forget()
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SingleFrameVAE:
        """As that of a module, which moves and casts weights; nothing is kept."""
        self.forget()
        return super()._apply(fn, recurse)


def single_frame_conv(conv: nn.Conv3d, x: Tensor, past: TimePadding) -> Tensor:
    """The output of a causal convolution for a single frame, [B, in, H, W] to [B, out, h, w].

    With channels last in memory, which it gives to what comes in, and zeros around the image.
    """
    kept = conv.__dict__.get(FOLDED)
    if kept is None or kept.kernel is None or torch.is_grad_enabled():
        kernel = fold_time_axis(conv.weight, past)
    else:
        kernel = kept.kernel
    x = x.contiguous(memory_format=torch.channels_last)
    border: Any = conv.padding[1:]
    return F.conv2d(x, kernel, conv.bias, conv.stride[1:], border, conv.dilation[1:], conv.groups)


def fold_time_axis(weight: Tensor, past: TimePadding) -> Tensor:
    """A kernel [out, in, T, H, W] for one image, [out, in, H, W]; sums are made in float32."""
    flat = weight[:, :, -1] if past == "zeros" else weight.float().sum(2).to(weight.dtype)
    return flat.contiguous(memory_format=torch.channels_last)


def _mark(weight: Tensor) -> tuple[int, int, torch.dtype]:
    """What is another after a weight was written to, moved or cast."""
    return 0 if weight.is_inference() else weight._version, weight.data_ptr(), weight.dtype
