"""Vectors written over whole latent frames, and read back as the mean of their copies.

chunk [N, A] --flatten--> a b c d --tile--> a b c d a b c d a b --cut--> slots [C, h, w]
"""

from __future__ import annotations

from collections.abc import Collection
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.interfaces import SlotHead
from wamkit.interfaces.types import (
    CLEAN,
    Frames,
    Level,
    Levels,
    ModelInputs,
    NoisyVectors,
    PrefixLevels,
    base,
    expand_levels,
)

from .order import Order

if TYPE_CHECKING:
    from . import LatentSlot


class LatentSlotHead(SlotHead):
    """`SlotHead` of Cosmos Policy (arXiv 2601.16163): noise is added to every latent element."""

    def __init__(self, config: LatentSlot, sizes: HeadContext) -> None:
        super().__init__()
        self.sizes, self.count = sizes, config.frames(sizes)
        self.order = Order(config.layout, int(sizes.state > 0), *sizes.frames, self.count)
        channels, height, width = sizes.latent
        color = torch.randn(channels, 1, 1)  # of a uniform image; latents have unit variance
        self.blank = (
            nn.Parameter(color.expand(-1, height, width).clone())  # [C, h, w]
            if config.blank_frame == "learned"
            else None
        )

    def frame_times(self, times: tuple[float, ...]) -> tuple[float, ...]:
        return self.order.frames(times)

    def to_latent(self, modality: str, x: Tensor) -> Tensor:
        """Vectors [B, N, A] as slots [B, slots, C * h * w], chunk by chunk; linear in x."""
        steps, slots, room = self._shape(modality)
        flat = x.unflatten(1, (-1, steps)).flatten(2)  # [B, chunks, steps * A]
        copies = -(-room * slots // flat.shape[2])
        tiled = flat.repeat(1, 1, copies)[..., : slots * room]
        return tiled.unflatten(2, (slots, room)).flatten(1, 2)

    def from_latent(self, modality: str, x: Tensor) -> Tensor:
        """The mean of the complete copies; an incomplete last one is not read."""
        steps, slots, _ = self._shape(modality)
        flat = x.unflatten(1, (-1, slots)).flatten(2)  # [B, chunks, slots * C * h * w]
        size = steps * self.sizes.token_dim(modality)
        copies = flat.shape[2] // size
        mean = flat[..., : copies * size].unflatten(2, (copies, size)).mean(2)
        return mean.unflatten(2, (steps, -1)).flatten(1, 2)

    def slots(self, inputs: ModelInputs, known: Collection[str]) -> dict[str, Frames]:
        """Besides the vectors a learned blank frame, unless observed frames are `known` with it."""
        found: dict[str, Frames] = {}
        if self.blank is not None and not any(base(role) == "context" for role in known):
            z = self.blank.float()[None, :, None].expand(len(inputs.text.tokens), -1, -1, -1, -1)
            found["blank"] = self._frames(z, CLEAN, ("context",), (0.0,))
        for part, x, level, roles, times, _ in inputs.groups(known):
            assert x is not None and not isinstance(level, PrefixLevels)
            # only the state is no latent yet
            latent = self.to_latent(part, x) if part == "state" else x
            z = latent.unflatten(2, self.sizes.latent).transpose(1, 2)  # [B, C, slots, h, w]
            found[part] = self._frames(z, level, roles, self.order.vectors(part, times))
        return found

    def decode_slot(self, modality: str, v: Tensor, vectors: NoisyVectors) -> Tensor:
        """Velocities in the form that noise was added to [B, slots, C * h * w]."""
        return v.transpose(1, 2).flatten(2)

    def _shape(self, modality: str) -> tuple[int, int, int]:
        """Steps of a chunk, the slots it takes, and the values in a slot."""
        steps, slots = (self.sizes.chunk, self.count) if modality == "action" else (1, 1)
        return steps, slots, prod(self.sizes.latent)

    def _frames(
        self, z: Tensor, level: Level | Levels, roles: tuple[str, ...], times: tuple[float, ...]
    ) -> Frames:
        """Slots as frames; conditioning latents hold those that are clean, as observed ones."""
        count = len(roles)
        levels = expand_levels(level, count)
        channels = self.sizes.traits.cond_channels
        if not channels:
            return Frames(z, roles, times, levels)
        if base(roles[0]) in ("context", "state"):
            mask = torch.ones_like(z[:, :1]).expand(-1, channels - z.shape[1], -1, -1, -1)
            return Frames(z, roles, times, levels, torch.cat([mask, z], 1))
        cond = z.new_zeros(z.shape[0], channels, *z.shape[2:])
        return Frames(z, roles, times, levels, cond)
