"""The latents of the black image that leads a clip, as heads with a blank slot want it."""

from __future__ import annotations

from collections.abc import Hashable
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .clips import BLACK, encode_pixels, vae_dtype

if TYPE_CHECKING:
    from ..config.spec import PolicySpec


class LeadingFrame:
    """Encodes the black image once for each size, and anew when a weight of the VAE changes.

    Call `forget` after a change of `weight.data`, which no version counter shows.
    """

    def __init__(self) -> None:
        self._latents: dict[Hashable, Tensor] = {}
        self._vae: Any = None
        self._weights: list[Tensor] = []
        self._versions: list[int] = []

    def forget(self) -> None:
        """Drop all latents."""
        self._latents = {}

    def before(self, spec: PolicySpec, vae: Any, z: Tensor) -> Tensor:
        """Latents [B, C, T, h, w] behind the leading frame of the action head, if it has one.

        The black image is as large as those of `z`, which may be downscaled.
        """
        if not spec.leading_frames:
            return z
        _, rows, columns = spec.vae.stride
        size = z.shape[3] * rows, z.shape[4] * columns
        self._forget_if_changed(vae)
        key = size, z.device, vae_dtype(vae)
        if key not in self._latents:
            with torch.inference_mode(False), torch.no_grad():  # training may use it, too
                image = torch.full((1, 3, 1, *size), BLACK, device=z.device)
                self._latents[key] = encode_pixels(vae, image)
        return torch.cat([self._latents[key].expand(len(z), -1, -1, -1, -1), z], 2)

    def _forget_if_changed(self, vae: Any) -> None:
        """Drop all latents if the VAE or a weight is another one, or a weight was written to."""
        weights: list[Tensor] = [*vae.parameters(), *vae.buffers()]
        versions = [x._version for x in weights if not x.is_inference()]
        same = vae is self._vae and len(weights) == len(self._weights)
        if not (same and all(map(is_, weights, self._weights)) and versions == self._versions):
            self.forget()
            self._vae, self._weights, self._versions = vae, weights, versions
