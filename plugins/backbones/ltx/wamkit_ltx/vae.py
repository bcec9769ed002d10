"""diffusers' VAEs of LTX-Video and LTX-2 behind wamkit's contract.

Letters: B batch, C = 128 latent channels, T = 1 + 8k images, t = 1 + k latents, h = H / 32,
w = W / 32. The encoder is causal, so image 0 alone gives the clip's latent 0; the decoder is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import diffusers
import torch
from torch import Tensor

from wamkit.acceleration.single_frame_conv import SingleFrameVAE

from .vae_single import convolutions, moments

SEED = 0  # of the noise that 0.9.1's decoder adds between its layers


class LTXVideoVAE(SingleFrameVAE):
    """Encode clips to latents of about unit variance, and decode them, the same every time.

    `name` is diffusers' class and `blocks` its block table; its state dict is this one's.
    `level` is the noise level that decoders of 0.9.1 and later take; None for others.
    """

    latents_mean: Tensor  # [C]
    latents_std: Tensor  # [C]

    def __init__(self, name: str, blocks: Mapping[str, Any], level: float | None) -> None:
        super().__init__()
        model = getattr(diffusers, name)(**blocks)
        self.encoder, self.decoder, self.level = model.encoder, model.decoder, level
        self.fold_convs(convolutions(self.encoder), "repeats")
        self.register_buffer("latents_mean", model.latents_mean)
        self.register_buffer("latents_std", model.latents_std)
        self.channels = int(model.config.latent_channels)
        space, time = model.spatial_compression_ratio, model.temporal_compression_ratio
        self.stride = (int(time), int(space), int(space))
        # Reflected at its edges, a latent needs a neighbor on every side.
        self.smallest = 2 if blocks.get("decoder_spatial_padding_mode") == "reflect" else 1

    def encode(self, pixels: Tensor) -> Tensor:
        """Return the normalized mean of the posterior.

        pixels [B, 3, T, H, W] in [-1, 1] -> z [B, C, t, h, w]. Raises ValueError if T is not
        1 + 8k, or H and W are no multiples of 32.
        """
        frames, rows, columns = self.stride
        _, channels, T, H, W = pixels.shape
        if channels != 3 or T % frames != 1 or H % rows or W % columns:
            raise ValueError(
                f"found pixels of shape {list(pixels.shape)}; expected [B, 3, T, H, W] with "
                f"T = 1 + {frames}k, H a multiple of {rows} and W a multiple of {columns}"
            )
        if T == 1:
            self.fold_kernels()
            found = moments(self.encoder, pixels[:, :, 0]).unsqueeze(2)
        else:
            found = self.encoder(pixels)
        mean = found[:, : self.channels]  # the rest is the variance of the posterior
        return (mean - _axes(self.latents_mean)) / _axes(self.latents_std)

    def decode(self, z: Tensor) -> Tensor:
        """Decode a normalized latent to a clip.

        z [B, C, t, h, w] -> pixels [B, 3, 1 + 8(t - 1), H, W], clamped to [-1, 1]. Raises
        ValueError if h or w is 1 in variant 2.0, whose decoder reflects at the edges.
        """
        if min(z.shape[3:]) < self.smallest:
            raise ValueError(
                f"found latents of {z.shape[3]} x {z.shape[4]}; this decoder needs at least "
                f"{self.smallest} x {self.smallest}, which is {self.smallest * self.stride[1]} "
                "pixels on each side"
            )
        z = z * _axes(self.latents_std) + _axes(self.latents_mean)
        if self.level is None:
            return self.decoder(z).clamp(-1, 1)
        devices = [z.device] if z.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(SEED)
            return self.decoder(z, z.new_full((z.shape[0],), self.level)).clamp(-1, 1)


def _axes(constants: Tensor) -> Tensor:
    """[C] to [C, 1, 1, 1]."""
    return constants.view(-1, 1, 1, 1)
