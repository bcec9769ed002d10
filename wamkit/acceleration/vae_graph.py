"""A VAE's `encode` of single images, recorded once for each shape and replayed.

What a mode that records (`wamkit.policy.run_mode`) does to the VAE: `sample` is recorded from a
scene on, and the scene is made of latents before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .single_frame_conv import FOLDED, SingleFrameVAE

Capture = Callable[[Callable[[], None], torch.device], Callable[[], None]]
"""Records what a function does on a device; the result does it again on the same memory."""


class CapturedVAE:
    """`encode` of a VAE for one shape: images are copied in, and it is replayed."""

    def __init__(self, vae: Any, encode: Callable[[Tensor], Tensor], pixels: Tensor) -> None:
        self._pixels = pixels.clone()
        self._encode = encode
        self._z = encode(self._pixels)  # warms up, and makes what is kept from call to call
        modules = list(vae.modules())
        self._slots = [(m._parameters, name) for m in modules for name in m._parameters]
        self._flat = [m for m in modules if FOLDED in m.__dict__]
        self._read = self._memory()
        self._kept = [m.__dict__[FOLDED] for m in self._flat]  # what is read is not freed
        self._replay: Callable[[], None] | None = None

    def record(self, capture: Capture) -> CapturedVAE:
        """Record the encoder by `capture`, and return itself."""

        def run() -> None:
            self._z = self._encode(self._pixels)

        self._replay = capture(run, self._pixels.device)
        return self

    def is_valid(self) -> bool:
        """Whether the weights, and what was made of them, are where they were recorded."""
        return self._read == self._memory()

    def __call__(self, pixels: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] of pixels [B, 3, T, H, W], by the recording."""
        assert self._replay is not None
        self._pixels.copy_(pixels)
        self._replay()
        return self._z.clone()

    def _memory(self) -> list[int]:
        found = [w.data_ptr() for slot, name in self._slots if (w := slot[name]) is not None]
        return found + [id(m.__dict__.get(FOLDED)) for m in self._flat]


class Encoder:
    """`encode` of a VAE, as written or compiled, that records single images of each shape.

    Clips are encoded without, and so is everything where gradients are on. It is recorded anew
    where weights were moved or changed. A copy has recorded nothing.
    """

    def __init__(self, vae: Any, encode: Callable[[Tensor], Tensor], capture: Capture) -> None:
        self._vae, self._encode, self._capture = vae, encode, capture
        self._graphs: dict[tuple[Any, ...], CapturedVAE] = {}

    def __call__(self, pixels: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] of pixels [B, 3, T, H, W]; recorded if they are one frame."""
        if pixels.shape[2] != 1 or torch.is_grad_enabled() or self._vae.training:
            return self._encode(pixels)
        if isinstance(self._vae, SingleFrameVAE):
            self._vae.fold_kernels()  # what is made anew lies elsewhere
        key = pixels.shape, pixels.dtype, pixels.device
        found = self._graphs.get(key)
        if found is None or not found.is_valid():
            made = CapturedVAE(self._vae, self._encode, pixels)
            self._graphs[key] = found = made.record(self._capture)
        return found(pixels)

    def __reduce__(self) -> tuple[type[Encoder], tuple[Any, ...]]:
        return Encoder, (self._vae, self._encode, self._capture)


def record_encoder(vae: Any, capture: Capture) -> None:
    """Record a VAE's `encode` from now on; `compile_modules.as_written` undoes it."""
    object.__setattr__(vae, "encode", Encoder(vae, vae.encode, capture))
