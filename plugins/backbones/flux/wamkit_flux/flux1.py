"""FLUX.1's transformer: modulation of each block's own, told the pooled text and a guidance scale.

Source: `src/flux/model.py` in github.com/black-forest-labs/flux (Apache-2.0). Names and shapes of
all parameters are those of diffusers' `FluxTransformer2DModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import stacked

from wamkit.acceleration.fused_linear import projected
from wamkit.engine.layers import Embedder, FeedForward, RMSNorm, split_heads
from wamkit.interfaces.types import Memo, Text

from .backbone import FluxBackbone, LastNorm
from .blocks import (
    Conditioning,
    DoubleBlock,
    Lanes,
    SingleBlock,
    Sizes,
    modulation,
    own_lanes,
)
from .stack import LEVELS, FluxStack, embedded

if TYPE_CHECKING:
    from . import Flux1


KEEP_FLOAT32 = ("time_text_embed", r"norm_(added_)?[qk]\.")
THETA = 10_000.0


def axes(head_size: int) -> tuple[int, int, int]:
    """Numbers of a head that turn with image, row and column: 16, 56 and 56 of 128."""
    space = 2 * (7 * head_size // 32)
    return head_size - 2 * space, space, space


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

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes, FeedForward, bias=True)
        self.norm1 = Modulation(sizes.width, 6)
        if sizes.words:
            self.norm1_context = Modulation(sizes.width, 6)

    def modulation(self, cond: Conditioning) -> Lanes:
        if not cond.level:
            return own_lanes(self, cond.double, cond)
        *words, frames = cond.level
        return [*(self.norm1_context(level) for level in words), self.norm1(frames)]


class SelfAttention(nn.Module):
    """Projections of a single block, under diffusers' names."""

    together = (("to_q", "to_k", "to_v"),)

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(sizes.width, sizes.inner) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(sizes.head_size), RMSNorm(sizes.head_size)


class Flux1SingleBlock(SingleBlock):
    """A single block with modulation of its own."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.head_size = sizes.head_size
        self.norm = Modulation(sizes.width, 3)
        self.attn = SelfAttention(sizes)
        self.proj_mlp = nn.Linear(sizes.width, sizes.hidden)
        self.proj_out = nn.Linear(sizes.inner + sizes.hidden, sizes.width)

    def modulation(self, cond: Conditioning) -> Lanes:
        if not cond.level:
            return own_lanes(self, cond.single, cond)
        return [self.norm(level) for level in cond.level]

    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attn = self.attn
        rows = projected(attn, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_size) for row in rows)
        return attn.norm_q(q), attn.norm_k(k), v, self.proj_mlp(x)

    def leave(self, attended: Tensor, hidden: Tensor) -> Tensor:
        return self.proj_out(torch.cat([attended, F.gelu(hidden, approximate="tanh")], -1))


class TimeText(nn.Module):
    """Embedders of noise level, guidance scale and pooled text, under diffusers' names."""

    def __init__(self, width: int, extra_width: int = 0, guidance: float | None = None) -> None:
        super().__init__()
        self.guidance = guidance
        self.timestep_embedder = Embedder(LEVELS, width, nn.SiLU())
        if guidance is not None:
            self.guidance_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.text_embedder = Embedder(extra_width, width, nn.SiLU()) if extra_width else None

    def forward(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        """sigma [B, g] to [B, g, D] float32; what is the same at every level is kept in `memo`."""
        extra = None if text is None else text.extra
        level = embedded(self.timestep_embedder, sigma)
        for part in memo.once((id(self), "rest"), lambda: self._rest(sigma, extra), of=extra):
            level = level + part
        return level

    def _rest(self, sigma: Tensor, extra: Tensor | None) -> list[Tensor]:
        """What guidance scale [1, D] and pooled text [B, 1, D] say, as far as they are told."""
        found = []
        if self.guidance is not None:
            found.append(embedded(self.guidance_embedder, sigma.new_full((1,), self.guidance)))
        if self.text_embedder is not None and extra is not None:
            dtype = self.text_embedder.linear_1.weight.dtype
            found.append(self.text_embedder(extra.to(dtype)).float())
        return found


class Flux1Stack(FluxStack):
    """Modulation as all of FLUX.1 has it."""

    apart = True
    theta = THETA

    def shared(self, levels: Lanes) -> tuple[Lanes, Lanes]:
        return [], []

    def known(self, level: Tensor, *, words: bool) -> tuple[Tensor, Tensor]:
        name = "norm1_context" if words else "norm1"
        return (
            stacked(self.transformer_blocks, level, lambda b: b.get_submodule(name)(level)),
            stacked(self.single_transformer_blocks, level, lambda b: b.norm(level)),
        )


class Flux1Backbone(Flux1Stack, FluxBackbone):
    """`VideoBackbone` with the architecture of FLUX.1 Kontext."""

    keep_float32 = KEEP_FLOAT32
    reference = 1

    def __init__(self, config: Flux1) -> None:
        super().__init__(config)
        width, sizes = config.width, Sizes.of(self.traits)
        self.axes = axes(sizes.head_size)
        _, rows, columns = self.traits.patch
        channels = rows * columns * self.traits.latent_channels
        self.time_text_embed = TimeText(width, config.extra_width, config.guidance)
        self.x_embedder = nn.Linear(channels, width)
        self.context_embedder = nn.Linear(config.text_width, width)
        self.transformer_blocks = nn.ModuleList(
            Flux1DoubleBlock(sizes) for _ in range(config.double_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            Flux1SingleBlock(sizes) for _ in range(config.single_layers)
        )
        self.norm_out = LastNorm(width, bias=True)
        self.proj_out = nn.Linear(width, channels)

    def level(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        return self.time_text_embed(sigma, text, memo)


class Flux1Expert(Flux1Stack):
    """Blocks of FLUX.1 over tokens of `width`, without words, guidance scale and pooled text."""

    keep_float32 = KEEP_FLOAT32

    def __init__(self, config: Flux1, width: int, feed_forward: int) -> None:
        super().__init__()
        sizes = Sizes(width, config.heads, config.head_size, feed_forward, words=False)
        self.axes = axes(config.head_size)
        self.time_text_embed = TimeText(width)
        self.transformer_blocks = nn.ModuleList(
            Flux1DoubleBlock(sizes) for _ in range(config.double_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            Flux1SingleBlock(sizes) for _ in range(config.single_layers)
        )

    def level(self, sigma: Tensor, text: Text | None, memo: Memo) -> Tensor:
        return self.time_text_embed(sigma, None, memo)
