"""Numbers written over whole latent frames, and read back as the mean of their copies.

chunk [N, A] --flatten--> a b c d --tile--> a b c d a b c d a b --cut--> slots [C, h, w]
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Rung, Rungs

from wamkit.config.parts import Sizes
from wamkit.interfaces import SlotHead
from wamkit.interfaces.types import Frames, NoisyVectors, Piece, Scene, base

from .order import Order

if TYPE_CHECKING:
    from . import LatentSlot


class LatentSlotHead(SlotHead):
    """`SlotHead` of Cosmos Policy (arXiv 2601.16163): noise is added to every latent element."""

    def __init__(self, config: LatentSlot, sizes: Sizes) -> None:
        super().__init__()
        self.sizes, self.count = sizes, config.frames(sizes)
        self.order = Order(config.layout, int(sizes.state > 0), *sizes.frames, self.count)
        channels, height, width = sizes.latent
        color = torch.randn(channels, 1, 1)  # of a uniform picture; latents have unit variance
        self.blank = (
            nn.Parameter(color.expand(-1, height, width).clone())  # [C, h, w]
            if config.learns_blank
            else None
        )

    def prepare(self, scene: Scene) -> Scene:
        """The scene's own frames with room between them for the slots."""
        changes = {
            name: frames.placed(
                frames.memo.once(
                    (id(self), "places"),
                    lambda frames=frames: self.order.frames(frames.times),  # type: ignore[misc]
                    of=frames.times,
                )
            )
            for name in ("video", "future")
            if (frames := getattr(scene, name)) is not None
        }
        return scene.with_(**changes)

    def lift(self, part: str, x: Tensor) -> Tensor:
        """Numbers [B, N, A] as slots [B, slots, C * h * w], chunk by chunk; linear in x."""
        steps, slots, room = self._shape(part)
        flat = x.unflatten(1, (-1, steps)).flatten(2)  # [B, chunks, steps * A]
        copies = -(-room * slots // flat.shape[2])
        tiled = flat.repeat(1, 1, copies)[..., : slots * room]
        return tiled.unflatten(2, (slots, room)).flatten(1, 2)

    def lower(self, part: str, x: Tensor) -> Tensor:
        """The mean of the complete copies; what is left of a last one is not read."""
        steps, slots, _ = self._shape(part)
        flat = x.unflatten(1, (-1, slots)).flatten(2)  # [B, chunks, slots * C * h * w]
        size = steps * self.sizes.numbers(part)
        copies = flat.shape[2] // size
        mean = flat[..., : copies * size].unflatten(2, (copies, size)).mean(2)
        return mean.unflatten(2, (steps, -1)).flatten(1, 2)

    def slots(self, scene: Scene, known: Collection[str]) -> dict[str, Frames]:
        """Besides the numbers a blank frame, unless observed frames are `known` with theirs."""
        found: dict[str, Frames] = {}
        if self.blank is not None and not any(base(role) == "context" for role in known):
            found["blank"] = self._blank(scene, self.blank)
        for piece in scene.pieces(known):
            found[piece.part] = self._frames(scene, piece)
        return found

    def unslot(self, part: str, v: Tensor, noisy: NoisyVectors) -> Tensor:
        """Velocities as noise was added: those of lifted numbers [B, slots, C * h * w]."""
        return v.transpose(1, 2).flatten(2)

    def _shape(self, part: str) -> tuple[int, int, int]:
        """Steps of a chunk, the slots it takes, and the numbers in a slot."""
        steps, slots = (self.sizes.chunk, self.count) if part == "action" else (1, 1)
        return steps, slots, prod(self.sizes.latent)

    def _frames(self, scene: Scene, piece: Piece) -> Frames:
        """The numbers of a part, lifted already but for the state's, as frames."""
        memo, part, x = scene.text.memo, piece.part, piece.x
        given = None if part == "state" else scene.noisy(part).times
        if part == "state":
            x = memo.once((id(self), part), lambda: self.lift(part, piece.x), of=scene.state)
        times = memo.once(
            (id(self), part, "places", x.shape[1]),
            lambda: self.order.numbers(part, piece.times),
            of=given,
        )
        z = x.unflatten(2, self.sizes.latent).transpose(1, 2)  # [B, C, slots, h, w]
        sigma = piece.sigma.expand(-1, z.shape[2])
        return self._clip(scene, z, piece.roles, times, sigma, piece.rung)

    def _blank(self, scene: Scene, blank: Tensor) -> Frames:
        """The frame before all others, observed like them."""
        tokens = scene.text.tokens
        sigma, time = scene.text.memo.once(
            (id(self), "blank"),
            lambda: (
                torch.zeros(tokens.shape[0], 1, device=tokens.device),
                torch.zeros(1, device=tokens.device),
            ),
        )
        z = blank.float()[None, :, None].expand(tokens.shape[0], -1, -1, -1, -1)
        return self._clip(scene, z, ("context",), time, sigma, Rung.fixed(0.0, sigma))

    def _clip(
        self,
        scene: Scene,
        z: Tensor,
        roles: tuple[str, ...],
        times: Tensor,
        sigma: Tensor,
        rung: Rung | None,
    ) -> Frames:
        """Slots as frames; where frames are guided, what is clean is shown as observed."""
        channels = self.sizes.traits.guide_channels
        runs = [(rung, len(list(run))) for _, run in groupby(roles)]
        rungs = Rungs.row(runs, sigma)
        if not channels:
            return Frames(z, roles, times, sigma, rungs=rungs)
        masks = channels - z.shape[1]

        def guide() -> Tensor:
            if base(roles[0]) in ("context", "state"):
                return torch.cat([torch.ones_like(z[:, :1]).expand(-1, masks, -1, -1, -1), z], 1)
            return z.new_zeros(z.shape[0], channels, *z.shape[2:])

        key = (id(self), "guide", base(roles[0]), z.shape)
        shown = scene.text.memo.once(key, guide, of=scene.state)
        return Frames(z, roles, times, sigma, shown, rungs)
