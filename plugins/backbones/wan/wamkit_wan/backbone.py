"""Wan's transformer between its two ends: frames to tokens, and tokens to velocity.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity

Source: `wan/modules/model.py` in github.com/Wan-Video/Wan2.1 and Wan2.2 (Apache-2.0). Names and
shapes of all parameters are those of diffusers' `WanTransformer3DModel`. Wan predicts
noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.acceleration.memo import Memo, Rungs
from wamkit.engine.attention import sdpa
from wamkit.engine.layers import modulated
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Frames, Segment, Text

from .blocks import Conditioning, WanBlock, by_frame
from .embedders import KEEP_FLOAT32, ConditionEmbedder, Turn, turn

if TYPE_CHECKING:
    from . import Wan


class PatchEmbedding(nn.Conv3d):
    """A convolution whose stride is its kernel, run as one matrix product over the patches."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int, int]) -> None:
        super().__init__(channels, width, patch, stride=patch)

    def forward(self, z: Tensor) -> Tensor:
        """[B, C, T, h, w] to [B, D, T, token rows, token columns]."""
        for axis, size in zip((2, 4, 6), self.kernel_size, strict=True):
            z = z.unflatten(axis, (-1, size))
        patches = z.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # [B, T, rows, columns, C * patch]
        return F.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


class WanBackbone(nn.Module):
    """`VideoBackbone` with the architecture of Wan 2.1 and 2.2."""

    attend = staticmethod(sdpa)
    keep_float32 = KEEP_FLOAT32

    def __init__(self, config: Wan) -> None:
        super().__init__()
        self.traits = traits = config.traits
        width, channels = traits.width, traits.latent_channels
        self.patch_embedding = PatchEmbedding(channels + traits.guide_channels, width, traits.patch)
        self.condition_embedder = ConditionEmbedder(width, traits.text_width, traits.extra_width)
        sizes = (width, traits.heads, traits.head_size, traits.feed_forward)
        self.blocks = nn.ModuleList(
            WanBlock(*sizes, image=traits.extra_width > 0) for _ in range(traits.depth)
        )
        _, rows, columns = traits.patch
        self.proj_out = nn.Linear(width, rows * columns * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns.

        `video.guide` and `text.extra` must be there exactly if the variant takes them; WamkitError
        otherwise.
        """
        self._require(video)
        z = video.z if video.guide is None else torch.cat([video.z, video.guide.to(video.z)], 1)
        grid = self.patch_embedding(z.to(self.patch_embedding.weight.dtype))
        _, _, *shape = grid.shape  # grid is [B, D, T, rows, columns]
        turned = video.memo.once(
            (id(self), "turn"), lambda: self._turn(places(video, *shape[1:])), of=video.times
        )
        known = video.memo, video.ladder
        cond = self._condition(video.sigma, turned, text, tuple(shape), *known)
        return grid.flatten(2).transpose(1, 2), video.segments(shape[1] * shape[2]), cond

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        return self._condition(sigma, turned, text, (sigma.shape[1], 1, 1), text.memo, rungs)

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        table = self.scale_shift_table.float() + cond.level.unsqueeze(2)  # [B, T, 2, D]
        shift, scale = table.unsqueeze(3).unbind(2)  # two of [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, patch * C]
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (*self.traits.patch[1:], -1))
        return y.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _condition(
        self,
        sigma: Tensor,
        turned: Turn,
        text: Text,
        shape: tuple[int, int, int],
        memo: Memo,
        rungs: Rungs | None,
    ) -> Conditioning:
        """Raises WamkitError if the picture's tokens are missing or not wanted."""
        found = 0 if text.extra is None else text.extra.shape[-1]
        if found != self.traits.extra_width:
            raise WamkitError(
                f"found image tokens of width {found}; this variant of wan takes width "
                f"{self.traits.extra_width} (0 is none)",
                "give Text(extra=...) as [B, tokens, width], or choose another variant",
            )
        return self.condition_embedder(sigma, turned, text, shape, memo, rungs)  # type: ignore[no-any-return]

    def _require(self, video: Frames) -> None:
        """Raise WamkitError if guide channels are missing or not wanted."""
        guide = 0 if video.guide is None else video.guide.shape[1]
        if guide != self.traits.guide_channels:
            raise WamkitError(
                f"found {guide} guide channels; this variant of wan takes "
                f"{self.traits.guide_channels} with every frame",
                "give Frames(guide=...) as [B, channels, T, h, w], or choose another variant",
            )

    def _turn(self, at: Tensor) -> Turn:
        return turn(at, self.traits.head_size)


def places(video: Frames, rows: int, columns: int) -> Tensor:
    """Time, row and column of every token [S, 3] float64."""
    device = video.z.device
    axes = (video.times.to(device), *(torch.arange(n, device=device) for n in (rows, columns)))
    grid = torch.meshgrid(*(axis.double() for axis in axes), indexing="ij")
    return torch.stack([place.flatten() for place in grid], -1)
