"""Cosmos' transformer between its two ends: frames to tokens, and tokens to velocity.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity

Two channels are added to the latents: 1 where a frame is given as context, and one that marks
padding of the picture, of which wamkit has none.

Source: `MinimalV1LVGDiT` in github.com/nvidia-cosmos/cosmos-predict2 (Apache-2.0 code). Names and
shapes of all parameters are those of diffusers' `CosmosTransformer3DModel`. Predict2 is written
there in the letters of EDM (Karras et al. 2022); with t = sigma_edm / (1 + sigma_edm), its input
is (1 - t) data + t noise, its time is t in [0, 1), and what the network gives is noise - data:
wamkit's sigma and velocity as they are. Predict2.5 is rectified flow in its own letters too.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Given, Rung, Rungs

from wamkit.engine.attention import sdpa
from wamkit.engine.layers import constant, modulated
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Frames, Segment, Text, base

from .blocks import Conditioning, Modulation, by_frame
from .stack import CosmosStack

if TYPE_CHECKING:
    from . import Cosmos

GIVEN = ("context", "seen", "state")  # what frames that are given show
MASKS = 2  # channels besides the latent ones: what is context, what is padding


class PatchEmbedding(nn.Module):
    """Patches of all channels to tokens, under diffusers' name `proj`."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        _, rows, columns = patch
        self.proj = nn.Linear(channels * rows * columns, width, bias=False)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, T, h, w] to [B, T, token rows, token columns, D]."""
        for axis, size in zip((2, 4, 6), self.patch, strict=True):
            z = z.unflatten(axis, (-1, size))
        return self.proj(z.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4))


class CosmosBackbone(CosmosStack):
    """`VideoBackbone` with the architecture of Cosmos-Predict2 and 2.5."""

    attend = staticmethod(sdpa)

    def __init__(self, config: Cosmos) -> None:
        self.traits = traits = config.traits
        super().__init__(config, traits.width, config.feed_forward)
        self.context_sigma = config.context_sigma
        width, channels = traits.width, traits.latent_channels
        self.patch_embed = PatchEmbedding(channels + MASKS, width, traits.patch)
        self.norm_out = Modulation(width, config.modulation_rank, 2)
        _, rows, columns = traits.patch
        self.proj_out = nn.Linear(width, rows * columns * channels, bias=False)

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns.

        A frame of the observation or of the state is marked as given, and if its sigma is 0, it is
        announced at `context_sigma`. WamkitError if there are guide channels or extra tokens.
        """
        self._require(video, text)
        dtype = self.patch_embed.proj.weight.dtype
        given = video.memo.once(
            (id(self), "given"),
            lambda: constant(
                tuple([base(r) in GIVEN for r in video.roles]), torch.bool, video.z.device
            ),
            of=video.roles,
        )  # [T] bool
        masks = video.memo.once(
            (id(self), "masks", video.z.shape, dtype),
            lambda: _masks(video.z.to(dtype), given),
            of=given,
        )
        grid = self.patch_embed(torch.cat([video.z.to(dtype), masks], 1))
        _, frames, rows, columns, _ = grid.shape
        rungs = video.ladder
        if rungs is None or torch.is_grad_enabled():
            level = self._embedded(torch.where(given, self._told(video.sigma), video.sigma))
        else:
            level = self._known(self._announced(rungs, video), video.memo)
        turned = video.memo.once(
            (id(self), "turn"),
            lambda: self._turn(_places(video, rows, columns)),
            of=video.times,
        )
        cond = self._condition(level, turned, text, (frames, rows, columns))
        return grid.flatten(1, 3), video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        level = cond.level
        table = level.out
        if table is None:
            table = self.norm_out(level.shared, level.own)
        shift, scale = table.unsqueeze(2).chunk(2, -1)  # [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, patch * C]
        # On the way in channels come before rows and columns of a patch, on the way out after.
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (*self.traits.patch[1:], -1))
        return y.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """As of any stack, and what the way out makes of the levels."""
        level = self._embedded(sigma)
        return *super()._rows(sigma), self.norm_out(level.shared, level.own)

    def _told(self, sigma: Tensor) -> Tensor:
        """Noise levels as they are announced where frames are given."""
        return torch.where(sigma == 0, self.context_sigma, sigma.float())

    def _announced(self, rungs: Rungs, video: Frames) -> Rungs:
        """The rungs with levels as they are announced, made once for as long as they last."""

        def told(level: Rung | Given, place: int) -> Rung | Given:
            if base(video.roles[place]) not in GIVEN:
                return level
            key, once = (id(self), "announced", place), video.memo.once
            if isinstance(level, Given):
                sigma, of = level.sigma, level.source
                return replace(level, sigma=once(key, lambda: self._told(sigma), of=of))
            levels = level.levels
            return replace(level, levels=once(key, lambda: self._told(levels), of=levels))

        return rungs.changed(told)

    def _require(self, video: Frames, text: Text) -> None:
        """Raise WamkitError for what this family has no place for."""
        for found, what in ((video.guide, "guide channels"), (text.extra, "extra tokens")):
            if found is not None:
                raise WamkitError(
                    f"found {what} of shape {list(found.shape)}; cosmos takes none",
                    "leave Frames(guide=...) and Text(extra=...) out",
                )


def _places(video: Frames, rows: int, columns: int) -> Tensor:
    """Time, row and column of every token [S, 3] float64."""
    device = video.z.device
    axes = (video.times.to(device), *(torch.arange(n, device=device) for n in (rows, columns)))
    grid = torch.meshgrid(*(axis.double() for axis in axes), indexing="ij")
    return torch.stack(grid, -1).flatten(0, 2)


def _masks(z: Tensor, given: Tensor) -> Tensor:
    """What stands behind z [B, C, T, h, w], two channels: 1 for the frames `given` [T], and 0."""
    b, _, t, h, w = z.shape
    context = given.to(z.dtype)[:, None, None].expand(b, 1, t, h, w)
    return torch.cat([context, torch.zeros_like(context)], 1)
