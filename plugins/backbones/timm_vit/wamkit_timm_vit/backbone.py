"""A vision transformer between pixels and tokens, its blocks opened at their self-attention.

    latents [B, 3 p p, T, h, w] --patch_embed, positions--> x [B, T (n + h w), D] --blocks--> x

    x --norm1--> q k v (--rotary positions, DINOv3 alone--)--> attention --proj, scale--> + --> x
    x --norm2--> feed-forward --scale--> + --> x

Source: `timm/models/vision_transformer.py` and `eva.py` in github.com/huggingface/
pytorch-image-models (Apache-2.0), whose parameter names are ours. Each frame is one image, with
class and register tokens (n of them) of its own in front of its patches and the same positions as
any other; frames meet in attention alone. p pixels make a patch's side.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import (
    QKV,
    LayerNorm,
    RotaryEmbedding,
    axial_rotary,
    constant,
    rotate_halves,
    split_heads,
)
from wamkit.interfaces import Backbone, Clip

if TYPE_CHECKING:
    from . import TimmViT

PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of red, green and blue in [0, 1], as in timm's `pretrained_cfg`."""
TEMPERATURE = 100.0  # longest period of DINOv3's rotary positions, in units of half an image


class ViTSigma(NamedTuple):
    """Noise levels, which are unused: images are clean."""

    levels: Tensor  # [R]


class Positions(NamedTuple):
    """Positions of tokens."""

    rotary: RotaryEmbedding | None = None
    learned: Tensor | None = None  # [1, places, D], added to the tokens of a frame


class PatchEmbed(nn.Module):
    """Patches whose pixels are channels to tokens, under timm's name `proj`."""

    def __init__(self, patch: int, width: int, pixels: str) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)
        self.mean, self.deviation = PIXELS[pixels]

    def forward(self, z: Tensor) -> Tensor:
        """Pixels in [-1, 1], [B, 3 * p * p, T, h, w], to [B, T, h * w, D].

        Channels are ordered as (color, row, column), as the convolution's weights are.
        """
        dtype = self.proj.weight.dtype
        x = z.float().flatten(3).permute(0, 2, 3, 1).unflatten(-1, (3, -1))  # [B, T, h w, 3, p p]
        mean, deviation = (constant(n, x.dtype, x.device) for n in (self.mean, self.deviation))
        x = ((x + 1) / 2 - mean[:, None]) / deviation[:, None]
        return F.linear(x.flatten(3).to(dtype), self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Projections under timm's names; queries, keys and values come out of one."""

    def __init__(self, width: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)


class FeedForward(nn.Module):
    """Linear, GELU, linear, under timm's names."""

    def __init__(self, width: int, hidden: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.approximate = "tanh" if activation == "gelu_tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))


class LayerScale(nn.Module):
    """A factor for each channel of a residual."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return x * self.gamma


class ViTBlock(nn.Module):
    """Self-attention and feed-forward, each behind a norm."""

    def __init__(self, config: TimmViT) -> None:
        super().__init__()
        width, self.head_dim = config.num_heads * config.head_dim, config.head_dim
        self.norm1 = LayerNorm(width, eps=config.norm_eps)
        self.attn = Attention(width, qkv_bias=config.qkv_bias)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = LayerNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, config.mlp_dim, config.activation)
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def modulation(self, sigma: ViTSigma) -> None:
        """Noise levels are not read."""
        return

    def text_kv(self, text: Any) -> None:
        """Text is not read."""
        return

    def pre_attention(
        self, x: Tensor, modulation: None, rotary: Positions
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        rows = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        if rotary.rotary is not None:
            q, k = rotate_halves(q, rotary.rotary), rotate_halves(k, rotary.rotary)
        return QKV(q, k, v), (x,)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: None, text_kv: None
    ) -> Tensor:
        x = carry[0] + self.ls1(self.attn.proj(attended))
        return x + self.ls2(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class ViTBackbone(Backbone):
    """Shows images to an action head, and cannot imagine any.

    Neither the prompt nor the noise levels are read: the first is left to the action head, the
    second are those of images, which are clean.
    """

    keep_float32 = ("norm",)

    def __init__(self, config: TimmViT) -> None:
        super().__init__()
        self.config = config
        self.traits = traits = config.traits
        width, extra = traits.width, traits.frame_tokens
        self.patch_embed = PatchEmbed(config.patch_size, width, config.pixels)
        self.cls_token = _tokens(1, width) if config.class_token else None
        self.reg_token = _tokens(config.registers, width) if config.registers else None
        places = config.grid**2 + (extra if config.positions == "all" else 0)
        self.pos_embed = _tokens(places, width) if config.grid else None
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(traits.depth))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> ViTSigma:
        return ViTSigma(sigmas)

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        """Time, row and column [S, 3]; rows and columns run from -1 to 1 over an image.

        Class and register tokens are in the middle, where DINOv3 does not turn a token.
        """
        axes = [2 * (torch.arange(n, device=times.device) + 0.5) / n - 1 for n in clip.grid[1:]]
        patches = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)
        frame = F.pad(patches.double(), (0, 0, self.traits.frame_tokens, 0))
        each = times.repeat_interleave(len(frame))
        return torch.cat([each[:, None], frame.repeat(len(times), 1)], 1)

    def embed_positions(self, positions: Tensor) -> Positions:
        """Row and column take half of a head each, where positions are rotary."""
        if self.config.positions != "rotary":
            return Positions()
        half = self.traits.head_dim // 2
        angles = 2 * math.pi * positions[..., 1:3]
        return Positions(axial_rotary(angles, (half, half), theta=TEMPERATURE, pairs=False))

    def embed_grid(self, positions: Tensor, grid: tuple[int, int, int]) -> Positions:
        learned = self._learned_positions(*grid[1:])
        return self.embed_positions(positions)._replace(learned=learned)

    def patchify(self, clip: Clip) -> Tensor:
        """Tokens frame by frame; in a frame class token, registers, rows and columns."""
        patches = self.patch_embed(clip.latents)  # [B, T, h w, D]
        extra = [token for token in (self.cls_token, self.reg_token) if token is not None]
        front = [token.expand(*patches.shape[:2], -1, -1) for token in extra]
        learned = clip.positions.learned
        if self.config.positions == "patches":
            patches = patches + learned
        x = torch.cat([*front, patches], 2)  # [B, T, n + h w, D]
        if self.config.positions == "all":
            x = x + learned
        return x.flatten(1, 2)

    def _learned_positions(self, rows: int, columns: int) -> Tensor | None:
        """Learned positions [1, n or 0 + rows * columns, D], interpolated as timm does."""
        table, grid = self.pos_embed, self.config.grid
        if table is None or (rows, columns) == (grid, grid):
            return table
        front, square = table[:, : -(grid**2)], table[:, -(grid**2) :].float()
        square = square.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        size = (rows, columns)
        square = F.interpolate(square, size=size, mode="bicubic", antialias=True)
        return torch.cat([front, square.flatten(2).transpose(1, 2).to(table.dtype)], 1)


def _tokens(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, count, width) * 0.02)
