"""FLUX.1's transformer: each block has its own modulation, from a guidance scale and pooled text.

Source: `src/flux/model.py` in github.com/black-forest-labs/flux (Apache-2.0). Names and shapes of
all parameters are those of diffusers' `FluxTransformer2DModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import Embedder, FeedForward, RMSNorm, fused_linear, split_heads

from .backbone import FluxBackbone
from .blocks import BlockSizes, DoubleBlock, Modulation, SingleBlock
from .embedders import FREQUENCIES, FluxStack, embed_sinusoid

if TYPE_CHECKING:
    from . import Flux1


class Flux1Sigma(NamedTuple):
    """Embedded noise levels, plus pooled text and guidance scale."""

    embedding: Tensor  # [R, D] float32, behind SiLU


def axes(head_dim: int) -> tuple[int, int, int]:
    """Elements of a head that turn with image, row and column: 16, 56 and 56 of 128."""
    space = 2 * (7 * head_dim // 32)
    return head_dim - 2 * space, space, space


class Flux1DoubleBlock(DoubleBlock):
    """A double block with modulation of its own."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__(sizes, FeedForward, bias=True)
        self.norm1 = Modulation(sizes.width, 6, bias=True)
        if sizes.text:
            self.norm1_context = Modulation(sizes.width, 6, bias=True)

    def modulation(self, sigma: Flux1Sigma, of_text: bool = False) -> Tensor:
        return (self.norm1_context if of_text else self.norm1)(sigma.embedding)  # type: ignore[no-any-return]


class SelfAttention(nn.Module):
    """Projections of a single block, under diffusers' names."""

    fuse_groups = (("to_q", "to_k", "to_v"),)

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(sizes.width, sizes.inner) for _ in range(3))
        self.norm_q, self.norm_k = RMSNorm(sizes.head_dim), RMSNorm(sizes.head_dim)


class Flux1SingleBlock(SingleBlock):
    """A single block with modulation of its own."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.head_dim = sizes.head_dim
        self.norm = Modulation(sizes.width, 3, bias=True)
        self.attn = SelfAttention(sizes)
        self.proj_mlp = nn.Linear(sizes.width, sizes.hidden)
        self.proj_out = nn.Linear(sizes.inner + sizes.hidden, sizes.width)

    def modulation(self, sigma: Flux1Sigma) -> Tensor:
        return self.norm(sigma.embedding)  # type: ignore[no-any-return]

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        attn = self.attn
        rows = fused_linear(attn, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return attn.norm_q(q), attn.norm_k(k), v, self.proj_mlp(x)

    def project_out(self, attended: Tensor, hidden: Tensor) -> Tensor:
        return self.proj_out(torch.cat([attended, F.gelu(hidden, approximate="tanh")], -1))


class TimeText(nn.Module):
    """Embedders of noise level, guidance scale and pooled text, under diffusers' names."""

    def __init__(
        self, width: int, cond_embeds_width: int = 0, guidance: float | None = None
    ) -> None:
        super().__init__()
        self.guidance = guidance
        self.timestep_embedder = Embedder(FREQUENCIES, width, nn.SiLU())
        if guidance is not None:
            self.guidance_embedder = Embedder(FREQUENCIES, width, nn.SiLU())
        self.text_embedder = (
            Embedder(cond_embeds_width, width, nn.SiLU()) if cond_embeds_width else None
        )

    def forward(self, sigmas: Tensor, pooled: Tensor | None) -> Tensor:
        """Levels [R] and pooled text [R or 1, cond_embeds_width] to [R, D] float32."""
        level = embed_sinusoid(self.timestep_embedder, sigmas)
        if self.guidance is not None:
            scale = sigmas.new_full((1,), self.guidance)
            level = level + embed_sinusoid(self.guidance_embedder, scale)
        if self.text_embedder is not None and pooled is not None:
            dtype = self.text_embedder.linear_1.weight.dtype
            level = level + self.text_embedder(pooled.to(dtype)).float()
        return level


class Flux1Stack(FluxStack):
    """Blocks of FLUX.1 and the embedders of their noise levels."""

    keep_float32 = ("time_text_embed", r"norm_(added_)?[qk]\.")
    theta = 10_000.0

    def __init__(
        self,
        config: Flux1,
        sizes: BlockSizes,
        *,
        cond_embeds_width: int = 0,
        guidance: float | None = None,
    ) -> None:
        super().__init__(
            axes(sizes.head_dim),
            (Flux1DoubleBlock(sizes) for _ in range(config.double_layers)),
            (Flux1SingleBlock(sizes) for _ in range(config.single_layers)),
        )
        self.time_text_embed = TimeText(sizes.width, cond_embeds_width, guidance)

    def embed_level(self, sigmas: Tensor) -> Tensor:
        return self.time_text_embed(sigmas, None)  # type: ignore[no-any-return]

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> Flux1Sigma:
        return Flux1Sigma(F.silu(self.time_text_embed(sigmas, pooled)))


class Flux1Backbone(Flux1Stack, FluxBackbone):
    """The architecture of FLUX.1 Kontext."""

    reads_pooled = True
    reference = 1

    def __init__(self, config: Flux1) -> None:
        super().__init__(
            config,
            BlockSizes.of(config.traits),
            cond_embeds_width=config.cond_embeds_width,
            guidance=config.guidance,
        )
        self.add_ends(config.traits, bias=True)


class Flux1Expert(Flux1Stack):
    """Blocks of FLUX.1 over tokens of `width`, without text, guidance scale and pooled text."""

    def __init__(self, config: Flux1, width: int, mlp_dim: int) -> None:
        sizes = BlockSizes(width, config.num_heads, config.head_dim, mlp_dim, text=False)
        super().__init__(config, sizes)
