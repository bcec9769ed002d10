"""FLUX.2's transformer: modulation that all blocks share, and single blocks in one projection.

Source: `src/flux2/model.py` in github.com/black-forest-labs/flux2 (Apache-2.0). Names and shapes of
all parameters are those of diffusers' `Flux2Transformer2DModel`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import RMSNorm, split_heads

from .backbone import FluxBackbone
from .blocks import BlockSizes, DoubleBlock, Modulation, SingleBlock
from .embedders import FREQUENCIES, FluxStack, embed_sinusoid

if TYPE_CHECKING:
    from . import Flux2


class Flux2Sigma(NamedTuple):
    """Noise levels, and the modulation that all blocks of a kind share; float32."""

    embedding: Tensor  # [R, D] behind SiLU
    frames: Tensor  # [R, 6, D] of double blocks
    text: Tensor | None  # [R, 6, D] the same of text tokens, if any pass
    single: Tensor  # [R, 3, D]


class LevelEmbedder(nn.Module):
    """Two linear layers without bias, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(FREQUENCIES, width, bias=False)
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

    def forward(self, sigmas: Tensor) -> Tensor:
        """Levels [R] to [R, D] float32."""
        level = embed_sinusoid(self.timestep_embedder, sigmas)
        if self.guidance is None:
            return level
        scale = sigmas.new_full((1,), self.guidance)
        return level + embed_sinusoid(self.guidance_embedder, scale)


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


class Flux2DoubleBlock(DoubleBlock):
    """A double block whose modulation all of them share."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__(sizes, FeedForward, bias=False)

    def modulation(self, sigma: Flux2Sigma, of_text: bool = False) -> Tensor:
        rows = sigma.text if of_text else sigma.frames
        assert rows is not None
        return rows


class FusedAttention(nn.Module):
    """One projection in for q, k, v and the feed-forward, and one out for both."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        inner, hidden = sizes.inner, sizes.hidden
        self.to_qkv_mlp_proj = nn.Linear(sizes.width, 3 * inner + 2 * hidden, bias=False)
        self.norm_q, self.norm_k = RMSNorm(sizes.head_dim), RMSNorm(sizes.head_dim)
        self.to_out = nn.Linear(inner + hidden, sizes.width, bias=False)


class Flux2SingleBlock(SingleBlock):
    """A single block whose projections are fused and whose modulation all of them share."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.attn = FusedAttention(sizes)
        self.splits = (sizes.inner, sizes.inner, sizes.inner, 2 * sizes.hidden)
        self.head_dim = sizes.head_dim

    def modulation(self, sigma: Flux2Sigma) -> Tensor:
        return sigma.single

    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        *qkv, hidden = self.attn.to_qkv_mlp_proj(x).split(self.splits, -1)
        q, k, v = (split_heads(part, self.head_dim) for part in qkv)
        return self.attn.norm_q(q), self.attn.norm_k(k), v, hidden

    def project_out(self, attended: Tensor, hidden: Tensor) -> Tensor:
        return self.attn.to_out(torch.cat([attended, swiglu(hidden)], -1))


class Flux2Stack(FluxStack):
    """Blocks of FLUX.2 and the embedders of their noise levels."""

    keep_float32 = ("time_guidance_embed", r"norm_(added_)?[qk]\.")
    theta = 2000.0

    def __init__(self, config: Flux2, sizes: BlockSizes, guidance: float | None = None) -> None:
        super().__init__(
            (sizes.head_dim // 4,) * 4,
            (Flux2DoubleBlock(sizes) for _ in range(config.double_layers)),
            (Flux2SingleBlock(sizes) for _ in range(config.single_layers)),
        )
        self.time_guidance_embed = TimeGuidance(sizes.width, guidance)
        self.double_stream_modulation_img = Modulation(sizes.width, 6, bias=False)
        self.double_stream_modulation_txt = (
            Modulation(sizes.width, 6, bias=False) if sizes.text else None
        )
        self.single_stream_modulation = Modulation(sizes.width, 3, bias=False)

    def embed_level(self, sigmas: Tensor) -> Tensor:
        return self.time_guidance_embed(sigmas)  # type: ignore[no-any-return]

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> Flux2Sigma:
        level, of_text = F.silu(self.time_guidance_embed(sigmas)), self.double_stream_modulation_txt
        return Flux2Sigma(
            level,
            self.double_stream_modulation_img(level),
            None if of_text is None else of_text(level),
            self.single_stream_modulation(level),
        )


class Flux2Backbone(Flux2Stack, FluxBackbone):
    """The architecture of FLUX.2."""

    reference = 10

    def __init__(self, config: Flux2) -> None:
        super().__init__(config, BlockSizes.of(config.traits), config.guidance)
        self.add_ends(config.traits, bias=False)


class Flux2Expert(Flux2Stack):
    """Blocks of FLUX.2 over tokens of `width`, without text and guidance scale."""

    def __init__(self, config: Flux2, width: int, mlp_dim: int) -> None:
        sizes = BlockSizes(width, config.num_heads, config.head_dim, mlp_dim, text=False)
        super().__init__(config, sizes)
