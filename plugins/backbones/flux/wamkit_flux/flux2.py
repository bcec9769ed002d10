"""FLUX.2's transformer: modulation that all blocks share, and single blocks in one projection.

Source: `src/flux2/model.py` in github.com/black-forest-labs/flux2 (Apache-2.0). Names and shapes of
all parameters are those of diffusers' `Flux2Transformer2DModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import RMSNorm, split_heads
from wamkit.interfaces.types import Memo, Text

from .backbone import FluxBackbone, LastNorm
from .blocks import Conditioning, DoubleBlock, Lanes, SingleBlock, Sizes, modulation
from .stack import LEVELS, FluxStack, embedded

if TYPE_CHECKING:
    from . import Flux2


KEEP_FLOAT32 = ("time_guidance_embed", r"norm_(added_)?[qk]\.")
THETA = 2000.0


class LevelEmbedder(nn.Module):
    """Two linear layers without bias, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(LEVELS, width, bias=False)
        self.linear_2 = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., 256] to [..., D]."""
        return self.linear_2(F.silu(self.linear_1(x)))


class TimeGuidance(nn.Module):
    """Embedders of noise level and guidance scale, together because diffusers names them so."""

    def __init__(self, width: int, guidance: float | None = None) -> None:
        super().__init__()
        self.guidance = guidance
        self.timestep_embedder = LevelEmbedder(width)
        if guidance is not None:
            self.guidance_embedder = LevelEmbedder(width)

    def forward(self, sigma: Tensor, memo: Memo) -> Tensor:
        """sigma [B, g] to [B, g, D] float32; what the scale says is kept in `memo`."""
        level, scale = embedded(self.timestep_embedder, sigma), self.guidance
        if scale is None:
            return level
        return level + memo.once(
            (id(self), "scale"),
            lambda: embedded(self.guidance_embedder, sigma.new_full((1,), scale)),
        )


class Modulation(nn.Module):
    """The modulation that all blocks of a kind share."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width, bias=False)

    def forward(self, level: Tensor) -> Tensor:
        """[B, g, D] to [B, g, count, D] float32."""
        return modulation(self.linear, level, self.count)


def swiglu(x: Tensor) -> Tensor:
    """[..., 2 F] to [..., F]; the first half is the gate."""
    gate, up = x.chunk(2, -1)
    return F.silu(gate) * up


class FeedForward(nn.Module):
    """Linear, SwiGLU, linear, without bias, under diffusers' names."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, 2 * hidden, bias=False)
        self.linear_out = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.linear_out(swiglu(self.linear_in(x)))


class FusedAttention(nn.Module):
    """One projection in for q, k, v and the feed-forward, and one out for both."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        inner, hidden = sizes.inner, sizes.hidden
        self.to_qkv_mlp_proj = nn.Linear(sizes.width, 3 * inner + 2 * hidden, bias=False)
        self.norm_q, self.norm_k = RMSNorm(sizes.head_size), RMSNorm(sizes.head_size)
        self.to_out = nn.Linear(inner + hidden, sizes.width, bias=False)


class Flux2SingleBlock(SingleBlock):
    """A single block whose projections are fused and whose modulation all of them share."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.attn = FusedAttention(sizes)
        self.splits = (sizes.inner, sizes.inner, sizes.inner, 2 * sizes.hidden)
        self.head_size = sizes.head_size

    def modulation(self, cond: Conditioning) -> Lanes:
        return cond.single

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *qkv, hidden = self.attn.to_qkv_mlp_proj(x).split(self.splits, -1)
        q, k, v = (split_heads(part, self.head_size) for part in qkv)
        return self.attn.norm_q(q), self.attn.norm_k(k), v, hidden

    def leave(self, attended: Tensor, hidden: Tensor) -> Tensor:
        return self.attn.to_out(torch.cat([attended, swiglu(hidden)], -1))


class Flux2Backbone(FluxBackbone):
    """`VideoBackbone` with the architecture of FLUX.2."""

    keep_float32 = KEEP_FLOAT32
    reference = 10
    theta = THETA
    apart = False

    def __init__(self, config: Flux2) -> None:
        super().__init__(config)
        width, sizes = config.width, Sizes.of(self.traits)
        self.axes = (sizes.head_size // 4,) * 4
        self.time_guidance_embed = TimeGuidance(width, config.guidance)
        self.double_stream_modulation_img = Modulation(width, 6)
        self.double_stream_modulation_txt = Modulation(width, 6)
        self.single_stream_modulation = Modulation(width, 3)
        self.x_embedder = nn.Linear(config.latent_channels, width, bias=False)
        self.context_embedder = nn.Linear(config.text_width, width, bias=False)
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(sizes, FeedForward, bias=False) for _ in range(config.double_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            Flux2SingleBlock(sizes) for _ in range(config.single_layers)
        )
        self.norm_out = LastNorm(width, bias=False)
        self.proj_out = nn.Linear(width, config.latent_channels, bias=False)

    def level(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        return self.time_guidance_embed(sigma, memo)

    def known(self, level: Tensor, *, words: bool) -> tuple[Tensor, Tensor]:
        double = self.double_stream_modulation_txt if words else self.double_stream_modulation_img
        return double(level), self.single_stream_modulation(level)

    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        *words, frames = levels
        double = [self.double_stream_modulation_txt(level) for level in words]
        double.append(self.double_stream_modulation_img(frames))
        return double, [self.single_stream_modulation(level) for level in levels]


class Flux2Expert(FluxStack):
    """Blocks of FLUX.2 over tokens of `width`, without words and guidance scale."""

    keep_float32 = KEEP_FLOAT32
    theta = THETA
    apart = False

    def __init__(self, config: Flux2, width: int, feed_forward: int) -> None:
        super().__init__()
        sizes = Sizes(width, config.heads, config.head_size, feed_forward, words=False)
        self.axes = (config.head_size // 4,) * 4
        self.time_guidance_embed = TimeGuidance(width)
        self.double_stream_modulation_img = Modulation(width, 6)
        self.single_stream_modulation = Modulation(width, 3)
        self.transformer_blocks = nn.ModuleList(
            DoubleBlock(sizes, FeedForward, bias=False) for _ in range(config.double_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            Flux2SingleBlock(sizes) for _ in range(config.single_layers)
        )

    def level(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        return self.time_guidance_embed(sigma, memo)

    def known(self, level: Tensor, *, words: bool) -> tuple[Tensor, Tensor]:
        return self.double_stream_modulation_img(level), self.single_stream_modulation(level)

    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        (tokens,) = levels
        return [self.double_stream_modulation_img(tokens)], [self.single_stream_modulation(tokens)]
