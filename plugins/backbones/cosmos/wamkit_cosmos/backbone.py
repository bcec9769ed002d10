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

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.attention import sdpa
from wamkit.errors import WamkitError
from wamkit.layers import RMSNorm, modulated, rotary_angles, sinusoid
from wamkit.types import Frames, Segment, Text

from .blocks import Conditioning, CosmosBlock, Modulation, by_frame

if TYPE_CHECKING:
    from . import Cosmos

MASKS = 2  # channels besides the latent ones: what is context, what is padding
BASE_FPS = 24  # pictures a second at which places in time are not scaled


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


class TimeEmbedder(nn.Module):
    """Two linear layers with SiLU between, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, waves: Tensor) -> Tensor:
        """[..., D] to [..., 3 D]."""
        return self.linear_2(F.silu(self.linear_1(waves)))


class TimeEmbedding(nn.Module):
    """Noise levels to what all layers share and to what each makes its own part of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.t_embedder = TimeEmbedder(width)
        self.norm = RMSNorm(width)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B, T] in [0, 1) to [B, T, 3 D] and, after SiLU, [B, T, D], both float32."""
        waves = sinusoid(t, self.width)
        shared = self.t_embedder(waves.to(self.t_embedder.linear_1.weight.dtype)).float()
        return shared, F.silu(self.norm(waves))


class CosmosBackbone(nn.Module):
    """`VideoBackbone` with the architecture of Cosmos-Predict2 and 2.5."""

    attend = staticmethod(sdpa)
    keep_float32 = ("time_embed", r"norm_[qk]\.weight$")

    def __init__(self, config: Cosmos) -> None:
        super().__init__()
        self.traits = traits = config.traits
        self.rope_scale = config.rope_scale
        self.context_sigma = config.context_sigma
        self.speed = 1.0 if config.fps is None else BASE_FPS / config.fps
        width, channels, rank = traits.width, traits.latent_channels, config.modulation_rank
        self.patch_embed = PatchEmbedding(channels + MASKS, width, traits.patch)
        self.time_embed = TimeEmbedding(width)
        self.crossattn_proj: nn.Module = nn.Identity()
        if config.text_stack:
            words = nn.Linear(config.text_stack, config.text_width)
            self.crossattn_proj = nn.Sequential(words, nn.GELU())
        self.transformer_blocks = nn.ModuleList(
            CosmosBlock(
                width,
                traits.head_size,
                config.feed_forward,
                rank,
                config.text_width,
                config.qk_norm_eps,
            )
            for _ in range(traits.depth)
        )
        self.norm_out = Modulation(width, rank, 2)
        _, rows, columns = traits.patch
        self.proj_out = nn.Linear(width, rows * columns * channels, bias=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.transformer_blocks

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns.

        A frame whose role begins with `context` is marked as given, and if its sigma is 0, it is
        announced at `context_sigma`. WamkitError if there are guide channels or image tokens.
        """
        self._require(video, text)
        dtype = self.patch_embed.proj.weight.dtype
        given = video.memo.once(
            (id(self), "given"),
            lambda: torch.tensor([r.startswith("context") for r in video.roles]).to(video.z.device),
            of=video.roles,
        )  # [T] bool
        grid = self.patch_embed(_with_masks(video.z.to(dtype), given))
        _, frames, rows, columns, _ = grid.shape
        announced = given & (video.sigma == 0)
        shared, level = self.time_embed(
            torch.where(announced, self.context_sigma, video.sigma.float())
        )
        words = text.memo.once(
            (id(self), "words"),
            lambda: self.crossattn_proj(text.tokens.to(dtype)),
            of=text.tokens,
        )
        cos, sin = video.memo.once(
            (id(self), "turn"), lambda: self._turn(video, rows, columns), of=video.times
        )
        shape = (frames, rows, columns)
        cond = Conditioning(shared, level.to(dtype), cos, sin, words, text, shape)
        return grid.flatten(1, 3), video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        shift, scale = self.norm_out(cond)
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, patch * C]
        # On the way in channels come before rows and columns of a patch, on the way out after.
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (*self.traits.patch[1:], -1))
        return y.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)

    def _require(self, video: Frames, text: Text) -> None:
        """Raise WamkitError for what this family has no place for."""
        for found, what in ((video.guide, "guide channels"), (text.image, "image tokens")):
            if found is not None:
                raise WamkitError(
                    f"found {what} of shape {list(found.shape)}; cosmos takes none",
                    "leave Frames(guide=...) and Text(image=...) out",
                )

    def _turn(self, video: Frames, rows: int, columns: int) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] float32 of each token's time, row and column.

        Row and column take 2 * (E // 6) numbers of a head each, time takes the others. An axis of n
        numbers turns with the base 10000 scale^(n / (n - 2)) (NTK-aware scaling).
        """
        device, size = video.z.device, self.traits.head_size
        space = 2 * (size // 6)
        times = video.times.to(device).double() * self.speed
        axes = (times, *(torch.arange(n, device=device).double() for n in (rows, columns)))
        places = torch.meshgrid(*axes, indexing="ij")
        sizes = (size - 2 * space, space, space)
        angles = torch.cat(
            [
                rotary_angles(place.flatten(), n, theta=10_000 * scale ** (n / (n - 2)))
                for place, n, scale in zip(places, sizes, self.rope_scale, strict=True)
            ],
            -1,
        )
        return angles.cos().float(), angles.sin().float()


def _with_masks(z: Tensor, given: Tensor) -> Tensor:
    """z [B, C, T, h, w] with two channels more: 1 for the frames `given` [T], and 0."""
    b, _, t, h, w = z.shape
    context = given.to(z.dtype)[:, None, None].expand(b, 1, t, h, w)
    return torch.cat([z, context, torch.zeros_like(context)], 1)
