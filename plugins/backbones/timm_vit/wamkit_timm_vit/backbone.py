"""A vision transformer between pixels and tokens, its blocks opened at their self-attention.

    latents [B, 3 p p, T, h, w] --patch_embed, positions--> x [B, T (n + h w), D] --blocks--> x

    x --norm1--> q k v (--rotary positions, DINOv3 alone--)--> attention --proj, scale--> + --> x
    x --norm2--> feed-forward --scale--> + --> x

Source: `timm/models/vision_transformer.py` and `eva.py` in github.com/huggingface/
pytorch-image-models (Apache-2.0), whose parameter names are ours. Each frame is one picture, with
class and register tokens (n of them) of its own in front of its patches and the same positions as
any other; frames meet in attention alone. Letters as in `wamkit.interfaces.types`, and p pixels in
a patch's side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs

from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.layers import LayerNorm, constant, split_heads
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Frames, Segment, Text

if TYPE_CHECKING:
    from . import TimmViT

PIXELS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Mean and deviation of red, green and blue in [0, 1], as in timm's `pretrained_cfg`."""
TEMPERATURE = 100.0  # longest period of DINOv3's rotary positions, in units of half a picture


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens."""

    turn: tuple[Tensor, Tensor] | None  # cos and sin [S, E / 2] float32, if positions are rotary


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
    """A factor for each channel of what a block adds."""

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
        width, self.head_size = config.heads * config.head_size, config.head_size
        self.norm1 = LayerNorm(width, eps=config.norm_eps)
        self.attn = Attention(width, qkv_bias=config.qkv_bias)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = LayerNorm(width, eps=config.norm_eps)
        self.mlp = FeedForward(width, config.feed_forward, config.activation)
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Tensor]:
        rows = self.attn.qkv(self.norm1(x)).chunk(3, -1)
        q, k, v = (split_heads(row, self.head_size) for row in rows)
        if cond.turn is not None:
            q, k = rotate_halves(q, *cond.turn), rotate_halves(k, *cond.turn)
        return QKV(q, k, v), x

    def absorb(self, attended: Tensor, rest: Tensor, cond: Conditioning) -> Tensor:
        x = rest + self.ls1(self.attn.proj(attended))
        return x + self.ls2(self.mlp(self.norm2(x)))


class ViTBackbone(nn.Module):
    """`VideoBackbone` that shows pictures to an action head, and cannot imagine any."""

    attend = staticmethod(sdpa)
    keep_float32 = ("norm",)

    def __init__(self, config: TimmViT) -> None:
        super().__init__()
        self.config = config
        self.traits = traits = config.traits
        width, extra = traits.width, traits.frame_tokens
        self.patch_embed = PatchEmbed(config.patch, width, config.pixels)
        self.cls_token = _tokens(1, width) if config.class_token else None
        self.reg_token = _tokens(config.registers, width) if config.registers else None
        places = config.grid**2 + (extra if config.positions == "all" else 0)
        self.pos_embed = _tokens(places, width) if config.grid else None
        self.blocks = nn.ModuleList(ViTBlock(config) for _ in range(traits.depth))

    def embed(
        self, video: Frames, text: Text | None
    ) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames; in a frame class token, registers, rows and columns.

        Neither the words nor the noise levels are read: the first are left to the action head, the
        second are those of pictures, which are clean.
        """
        batch, _, frames, rows, columns = video.z.shape
        patches = self.patch_embed(video.z)  # [B, T, h w, D]
        extra = [token for token in (self.cls_token, self.reg_token) if token is not None]
        front = [token.expand(batch, frames, -1, -1) for token in extra]
        key = (id(self), "places", patches.dtype)
        places = video.memo.once(key, lambda: self._places(rows, columns))
        if self.config.positions == "patches" and places is not None:
            patches = patches + places
        x = torch.cat([*front, patches], 2)  # [B, T, n + h w, D]
        if self.config.positions == "all" and places is not None:
            x = x + places
        turn = video.memo.once((id(self), "turn"), lambda: self._turn(video))
        return x.flatten(1, 2), video.segments(x.shape[2]), Conditioning(turn)

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; noise levels and words are not read, nor are times.

        Learned positions are added to patches on the way in, so that other tokens have none. For
        rotary ones rows and columns run from -1 to 1 over the picture; at 0, 0 is its middle, where
        a token is not turned, as class and register tokens are not.
        """
        if self.config.positions != "rotary":
            return Conditioning(None)
        return Conditioning(
            text.memo.once((id(self), "turn"), lambda: self._angles(at[:, 1:]), of=at)
        )

    def unembed(self, x: Tensor, cond: Conditioning) -> NoReturn:
        raise WamkitError(
            f"{self.config.variant} only shows what is seen; it has no velocity to predict",
            "choose a backbone that was trained to denoise, or a head that reads this one's blocks",
        )

    def _places(self, rows: int, columns: int) -> Tensor | None:
        """Learned positions [1, n or 0 + rows * columns, D], interpolated as timm does."""
        table, grid = self.pos_embed, self.config.grid
        if table is None or (rows, columns) == (grid, grid):
            return table
        front, square = table[:, : -(grid**2)], table[:, -(grid**2) :].float()
        square = square.unflatten(1, (grid, grid)).permute(0, 3, 1, 2)
        size = (rows, columns)
        square = F.interpolate(square, size=size, mode="bicubic", antialias=True)
        return torch.cat([front, square.flatten(2).transpose(1, 2).to(table.dtype)], 1)

    def _turn(self, video: Frames) -> tuple[Tensor, Tensor] | None:
        """cos and sin [S, E / 2] of every token's row and column, as DINOv3 has them.

        Rows and columns run from -1 to 1 over the picture, whatever its size, and take half of a
        head each; class and register tokens are not turned.
        """
        if self.config.positions != "rotary":
            return None
        frames, *sides = video.z.shape[2:]
        axes = [2 * (torch.arange(n, device=video.z.device) + 0.5) / n - 1 for n in sides]
        places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1)  # [h w, 2]
        places = F.pad(places, (0, 0, self.traits.frame_tokens, 0))
        return self._angles(places.repeat(frames, 1))

    def _angles(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] float32 of rows and columns [S, 2] from -1 to 1."""
        quarter = self.traits.head_size // 4
        power = torch.arange(quarter, device=places.device, dtype=torch.float32) / quarter
        angles = 2 * math.pi * places.float()[..., None] / TEMPERATURE**power  # [S, 2, E / 4]
        angles = angles.flatten(1)
        return angles.cos(), angles.sin()


def rotate_halves(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [B, H, S, E] with its numbers i and i + E / 2 turned by cos, sin [S, E / 2] float32."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


def _tokens(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(1, count, width) * 0.02)
