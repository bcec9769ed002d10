"""What Wan's blocks are conditioned on: noise levels, prompt, an image, and positions.

Source: `wan/modules/model.py` in github.com/Wan-Video/Wan2.1 and Wan2.2 (Apache-2.0), under the
parameter names of diffusers' `WanTransformer3DModel`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import (
    Embedder,
    FeedForward,
    LayerNorm,
    RotaryEmbedding,
    TextCond,
    axial_rotary,
    sinusoid,
)
from wamkit.interfaces import Stack
from wamkit.interfaces.types import Text

from .blocks import WanSigma

FREQUENCIES = 256  # width of the sinusoid of a noise level
KEEP_FLOAT32 = ("time_embedder", "scale_shift_table", "norm")


class ImageEmbedder(nn.Module):
    """CLIP tokens of the first image to the model's width, under diffusers' names."""

    def __init__(self, cond_embeds_width: int, width: int) -> None:
        super().__init__()
        self.norm1 = LayerNorm(cond_embeds_width)
        self.ff = FeedForward(cond_embeds_width, cond_embeds_width, approximate="none")
        self.ff.net[2] = nn.Linear(cond_embeds_width, width)
        self.norm2 = LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L', cond_embeds_width] to [B, L', D]."""
        return self.norm2(self.ff(self.norm1(x)))


class TimeEmbedder(nn.Module):
    """The embedder of noise levels, which Wan counts in thousandths."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.time_embedder = Embedder(FREQUENCIES, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)

    def embed_sigma(self, sigmas: Tensor) -> WanSigma:
        """Levels [R] as blocks and final layer read them."""
        waves = sinusoid(1000 * sigmas.float(), FREQUENCIES)
        level = self.time_embedder(waves.to(self.time_embedder.linear_1.weight.dtype)).float()
        rows = self.time_proj(F.silu(level).to(self.time_proj.weight.dtype)).float()
        return WanSigma(level, rows.unflatten(-1, (6, -1)))


class ConditionEmbedder(TimeEmbedder):
    """The embedders of noise level, prompt and image, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int, cond_embeds_width: int = 0) -> None:
        super().__init__(width)
        self.text_embedder = Embedder(text_width, width, nn.GELU("tanh"))
        self.image_embedder = ImageEmbedder(cond_embeds_width, width) if cond_embeds_width else None


class LevelEmbedder(nn.Module):
    """A second embedder of noise levels, for tokens that pass the backbone's blocks."""

    keep_float32 = KEEP_FLOAT32

    def __init__(self, width: int) -> None:
        super().__init__()
        self.condition_embedder = TimeEmbedder(width)

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> WanSigma:
        """As the backbone's."""
        return self.condition_embedder.embed_sigma(sigmas)


class WanStack(Stack):
    """The conditioning of Wan's blocks, for backbone and expert."""

    keep_float32 = KEEP_FLOAT32

    def __init__(self, head_dim: int, embedder: ConditionEmbedder) -> None:
        super().__init__()
        self.head_dim, self.condition_embedder = head_dim, embedder

    def embed_text(self, text: Text) -> TextCond:
        embedder = self.condition_embedder
        dtype = embedder.time_proj.weight.dtype
        return TextCond(embedder.text_embedder(text.tokens.to(dtype)), text.attention_mask(dtype))

    def embed_image(self, tokens: Tensor) -> Tensor | None:
        embedder = self.condition_embedder
        if embedder.image_embedder is None:
            return None
        return embedder.image_embedder(tokens.to(embedder.time_proj.weight.dtype))  # type: ignore[no-any-return]

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> WanSigma:
        return self.condition_embedder.embed_sigma(sigmas)

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        """Row and column take 2 * (E // 6) elements of a head each, time takes the others."""
        space = 2 * (self.head_dim // 6)
        return axial_rotary(positions[..., :3], (self.head_dim - 2 * space, space, space))

    def embed_line(self, places: Tensor) -> RotaryEmbedding:
        """All elements of a head turn with the place on the line."""
        return axial_rotary(places[..., None], (self.head_dim,))
