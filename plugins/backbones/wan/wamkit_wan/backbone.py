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

from wamkit.attention import sdpa
from wamkit.errors import WamkitError
from wamkit.layers import (
    Embedder,
    FeedForward,
    LayerNorm,
    modulated,
    rotary_angles,
    sinusoid,
)
from wamkit.types import Frames, Segment, Text

from .blocks import Conditioning, WanBlock, by_frame

if TYPE_CHECKING:
    from . import Wan

LEVELS = 256  # width of the sinusoid of a noise level


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


class ImageEmbedder(nn.Module):
    """CLIP tokens of the first image to the model's width, under diffusers' names."""

    def __init__(self, image_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(image_width)
        self.ff = FeedForward(image_width, image_width, approximate="none")
        self.ff.net[2] = nn.Linear(image_width, width)
        self.norm2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L', image width] to [B, L', D]."""
        return self.norm2(self.ff(self.norm1(x)))


class ConditionEmbedder(nn.Module):
    """The embedders of noise level, words and image, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int, image_width: int) -> None:
        super().__init__()
        self.time_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        self.text_embedder = Embedder(text_width, width, nn.GELU("tanh"))
        self.image_embedder = ImageEmbedder(image_width, width) if image_width else None

    def time(self, sigma: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """sigma [B, T] to its embedding [B, T, D] and a modulation [B, T, 6, D], both float32.

        `dtype` is that of the projection between the two.
        """
        waves = sinusoid(1000 * sigma.float(), LEVELS)
        level = self.time_embedder(waves.to(self.time_embedder.linear_1.weight.dtype)).float()
        modulation = self.time_proj(F.silu(level).to(dtype)).float()
        return level, modulation.unflatten(-1, (6, -1))

    def image(self, tokens: Tensor | None, dtype: torch.dtype) -> Tensor | None:
        """Image tokens [B, L', image width] to [B, L', D]; None for a model that takes none."""
        if self.image_embedder is None or tokens is None:
            return None
        return self.image_embedder(tokens.to(dtype))


class WanBackbone(nn.Module):
    """`VideoBackbone` with the architecture of Wan 2.1 and 2.2."""

    attend = staticmethod(sdpa)
    keep_float32 = ("time_embedder", "scale_shift_table", "norm")

    def __init__(self, config: Wan) -> None:
        super().__init__()
        self.traits = traits = config.traits
        width, channels = traits.width, traits.latent_channels
        self.patch_embedding = PatchEmbedding(channels + traits.guide_channels, width, traits.patch)
        self.condition_embedder = ConditionEmbedder(width, traits.text_width, traits.image_width)
        self.blocks = nn.ModuleList(
            WanBlock(width, traits.head_size, config.feed_forward, image=traits.image_width > 0)
            for _ in range(traits.depth)
        )
        _, rows, columns = traits.patch
        self.proj_out = nn.Linear(width, rows * columns * channels)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 2, width) / width**0.5)

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns.

        `video.guide` and `text.image` must be there exactly if the variant takes them; WamkitError
        otherwise.
        """
        self._require(video, text)
        dtype = self.patch_embedding.weight.dtype
        z = video.z if video.guide is None else torch.cat([video.z, video.guide.to(video.z)], 1)
        grid = self.patch_embedding(z.to(dtype))  # [B, D, T, rows, columns]
        _, _, frames, rows, columns = grid.shape
        embedder = self.condition_embedder
        level, modulation = embedder.time(video.sigma, dtype)
        words = text.memo.once(
            (id(self), "words"),
            lambda: embedder.text_embedder(text.tokens.to(dtype)),
            of=text.tokens,
        )
        image = text.memo.once(
            (id(self), "image"), lambda: embedder.image(text.image, dtype), of=text.image
        )
        cos, sin = video.memo.once(
            (id(self), "turn"), lambda: self._turn(video, rows, columns), of=video.times
        )
        shape = (frames, rows, columns)
        cond = Conditioning(modulation, level, cos, sin, words, image, text, shape)
        return grid.flatten(2).transpose(1, 2), video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        table = self.scale_shift_table.float() + cond.level.unsqueeze(2)  # [B, T, 2, D]
        shift, scale = table.unsqueeze(3).unbind(2)  # two of [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, patch * C]
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (*self.traits.patch[1:], -1))
        return y.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _require(self, video: Frames, text: Text) -> None:
        """Raise WamkitError if guide channels or image tokens are missing or not wanted."""
        guide = 0 if video.guide is None else video.guide.shape[1]
        image = 0 if text.image is None else text.image.shape[-1]
        if guide != self.traits.guide_channels:
            raise WamkitError(
                f"found {guide} guide channels; this variant of wan takes "
                f"{self.traits.guide_channels} with every frame",
                "give Frames(guide=...) as [B, channels, T, h, w], or choose another variant",
            )
        if image != self.traits.image_width:
            raise WamkitError(
                f"found image tokens of width {image}; this variant of wan takes width "
                f"{self.traits.image_width} (0 is none)",
                "give Text(image=...) as [B, tokens, width], or choose another variant",
            )

    def _turn(self, video: Frames, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] float32 of each token's time, row and column.

        Row and column take 2 * (E // 6) numbers of a head each, time takes the others.
        """
        device, size = video.z.device, self.traits.head_size
        space = 2 * (size // 6)
        axes = (video.times.to(device), *(torch.arange(n, device=device) for n in (rows, columns)))
        places = torch.meshgrid(*(axis.double() for axis in axes), indexing="ij")
        angles = torch.cat(
            [
                rotary_angles(place.flatten(), part)
                for place, part in zip(places, (size - 2 * space, space, space), strict=True)
            ],
            -1,
        )
        return angles.cos().float(), angles.sin().float()
