"""FLUX.1's transformer: modulation of each block's own, told the pooled text and a guidance scale.

Source: `src/flux/model.py` in github.com/black-forest-labs/flux (Apache-2.0). Names and shapes of
all parameters are those of diffusers' `FluxTransformer2DModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.layers import Embedder, FeedForward, RMSNorm, split_heads
from wamkit.types import Text

from .backbone import LEVELS, FluxBackbone, LastNorm, embedded
from .blocks import Conditioning, DoubleBlock, Lanes, SingleBlock, modulation

if TYPE_CHECKING:
    from . import Flux1


class Modulation(nn.Module):
    """The projection that makes a lane's modulation, under diffusers' name `linear`."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(width, count * width)

    def forward(self, level: Tensor) -> Tensor:
        """[B, g, D] to [B, g, count, D] float32."""
        return modulation(self.linear, level, self.count)


class Flux1DoubleBlock(DoubleBlock):
    """A double block with modulation of its own."""

    def __init__(self, width: int, head_size: int, hidden: int) -> None:
        super().__init__(width, head_size, lambda: FeedForward(width, hidden), bias=True)
        self.norm1, self.norm1_context = Modulation(width, 6), Modulation(width, 6)

    def modulation(self, cond: Conditioning) -> Lanes:
        *words, frames = cond.level
        return [*(self.norm1_context(level) for level in words), self.norm1(frames)]


class SelfAttention(nn.Module):
    """Projections of a single block, under diffusers' names."""

    def __init__(self, width: int, head_size: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(head_size), RMSNorm(head_size)


class Flux1SingleBlock(SingleBlock):
    """A single block with modulation of its own."""

    def __init__(self, width: int, head_size: int, hidden: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.norm = Modulation(width, 3)
        self.attn = SelfAttention(width, head_size)
        self.proj_mlp = nn.Linear(width, hidden)
        self.proj_out = nn.Linear(width + hidden, width)

    def modulation(self, cond: Conditioning) -> Lanes:
        return [self.norm(level) for level in cond.level]

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attn = self.attn
        q, k, v = (split_heads(to(x), self.head_size) for to in (attn.to_q, attn.to_k, attn.to_v))
        return attn.norm_q(q), attn.norm_k(k), v, self.proj_mlp(x)

    def leave(self, attended: Tensor, hidden: Tensor) -> Tensor:
        return self.proj_out(torch.cat([attended, F.gelu(hidden, approximate="tanh")], -1))


class TimeText(nn.Module):
    """Embedders of noise level, guidance scale and pooled text, under diffusers' names."""

    def __init__(self, width: int, image_width: int, guidance: float) -> None:
        super().__init__()
        self.guidance = guidance
        self.timestep_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.guidance_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.text_embedder = Embedder(image_width, width, nn.SiLU()) if image_width else None

    def forward(self, sigma: Tensor, text: Text | None) -> Tensor:
        """sigma [B, g] to [B, g, D] float32."""
        level = embedded(self.timestep_embedder, sigma)
        level = level + embedded(self.guidance_embedder, sigma.new_full((1,), self.guidance))
        if self.text_embedder is None or text is None or text.image is None:
            return level
        dtype = self.text_embedder.linear_1.weight.dtype
        return level + self.text_embedder(text.image.to(dtype)).float()


class Flux1Backbone(FluxBackbone):
    """`VideoBackbone` with the architecture of FLUX.1 Kontext."""

    keep_float32 = ("time_text_embed", r"norm_(added_)?[qk]\.")
    reference = 1
    theta = 10_000.0

    def __init__(self, config: Flux1) -> None:
        super().__init__(config)
        width, size, hidden = config.width, config.head_size, config.feed_forward
        space = 2 * (7 * size // 32)  # 56 of 128
        self.axes = (size - 2 * space, space, space)
        _, rows, columns = self.traits.patch
        channels = rows * columns * self.traits.latent_channels
        self.time_text_embed = TimeText(width, config.image_width, config.guidance)
        self.x_embedder = nn.Linear(channels, width)
        self.context_embedder = nn.Linear(config.text_width, width)
        self.transformer_blocks = nn.ModuleList(
            Flux1DoubleBlock(width, size, hidden) for _ in range(config.double_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            Flux1SingleBlock(width, size, hidden) for _ in range(config.single_layers)
        )
        self.norm_out = LastNorm(width, bias=True)
        self.proj_out = nn.Linear(width, channels)

    def level(self, sigma: Tensor, text: Text | None) -> Tensor:
        return self.time_text_embed(sigma, text)

    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        return [], []
