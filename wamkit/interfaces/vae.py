"""The VAE interface: images to latents of unit variance, and back."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class VAE(Protocol):
    """A causal video autoencoder, as an `nn.Module`; for images T is 1."""

    channels: int  # C
    stride: tuple[int, int, int]  # images, rows, columns in one latent

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels [B, 3, T, height, width] in [-1, 1] to latents [B, C, 1 + (T - 1) / stride, h, w].

        The posterior mean, normalized to about unit variance. The first image is a latent by
        itself and does not depend on later ones. Raises ValueError if T, height or width does not
        divide.
        """

    def decode(self, z: Tensor) -> Tensor:
        """Latents [B, C, t, h, w] to pixels [B, 3, 1 + (t - 1) * stride, height, width]."""


@runtime_checkable
class StreamingVAE(VAE, Protocol):
    """A VAE that encodes a clip piece by piece (`wamkit.config.parts.VAEConfig.streams`)."""

    def encode_next(self, pixels: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """The latents of the next images of a clip, and what to pass with those after them.

        Pieces give what `encode` gives of the whole. `past` is not changed.

        Args:
            pixels: [B, 3, T, height, width] in [-1, 1]; T is 1 + k * stride at the beginning of a
                clip, then k * stride.
            past: What the piece before returned; None at the beginning.

        Returns:
            Latents [B, C, 1 + k, h, w], or [B, C, k, h, w], and the next `past`.
        """
