"""LTX's blocks and their conditioning: noise levels, prompt, and positions.

The middle of a backbone, and by itself an action expert: `LTXStack` is that of LTX-Video,
`LTX2Stack` that of the video half of LTX-2. Sources as in `.backbone`, letters as in
`wamkit.interfaces.types`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import Embedder, RotaryEmbedding, TextCond, sinusoid
from wamkit.interfaces import Stack
from wamkit.interfaces.types import Text

from .blocks import LTX2Block, LTX23Block, LTXBlock, LTXSigma
from .rope import STRIDE, first_image, fractions, frequencies, whole_width_rotary

if TYPE_CHECKING:
    from . import LTX, LTX2

FREQUENCIES = 256  # width of the sinusoid of a noise level


class LevelEmbedder(nn.Module):
    """A noise level to its embedding and to `count` vectors of modulation; diffusers' names."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": Embedder(FREQUENCIES, width, nn.SiLU())})
        self.linear = nn.Linear(width, count * width)

    def forward(self, sigmas: Tensor) -> tuple[Tensor, Tensor]:
        """Levels [R] to an embedding [R, D] and modulation [R, count, D], both float32."""
        embedder = self.emb["timestep_embedder"]
        waves = sinusoid(1000 * sigmas.float(), FREQUENCIES)
        level = embedder(waves.to(next(embedder.parameters()).dtype)).float()
        rows = self.linear(F.silu(level).to(self.linear.weight.dtype)).float()
        return level, rows.unflatten(-1, (-1, level.shape[-1]))


class BaseStack(Stack):
    """Blocks over tokens of any width, in the heads of the backbone, and embedders for them."""

    keep_float32 = ("timestep_embedder", "scale_shift_table", "norm")
    pairs: ClassVar[bool]
    """Whether rotary positions turn neighbors, or halves of a head."""
    frequency_dtype: ClassVar[torch.dtype]
    """The dtype that frequencies are computed in, as those the model was trained with."""

    def __init__(self, config: LTX | LTX2, width: int, mlp_dim: int, block: type[LTXBlock]) -> None:
        super().__init__()
        self.fps, self.num_heads = config.fps, config.num_heads
        self.inner, text_width = config.num_heads * config.head_dim, config.text_width
        self.time_embed = LevelEmbedder(width, block.vectors)
        self.prompt_adaln: LevelEmbedder | None = None
        self.caption_projection: Embedder | None = None
        if block is LTX23Block:
            self.prompt_adaln = LevelEmbedder(text_width, 2)
        else:
            self.caption_projection = Embedder(text_width, width, nn.GELU("tanh"))
            text_width = width
        sizes = width, text_width, config.num_heads, config.head_dim, mlp_dim
        self.transformer_blocks = nn.ModuleList(block(*sizes) for _ in range(config.layers))

    @property
    def blocks(self) -> nn.ModuleList:  # type: ignore[override]
        """The blocks, input side first."""
        return self.transformer_blocks

    def embed_text(self, text: Text) -> TextCond:
        dtype = self.time_embed.linear.weight.dtype
        tokens = text.tokens.to(dtype)
        if self.caption_projection is not None:
            tokens = self.caption_projection(tokens)
        return TextCond(tokens, text.attention_mask(dtype))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> LTXSigma:
        prompt = None if self.prompt_adaln is None else self.prompt_adaln(sigmas)[1]
        embedding, projection = self.time_embed(sigmas)
        return LTXSigma(embedding, projection, prompt)

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        """All in float32, as the positions that the models were trained with."""
        time, row, column = positions[..., :3].float().unbind(-1)
        places = fractions(*self._pixel_positions(time, row, column))
        frequency = frequencies(self.inner, self.frequency_dtype, positions.device)
        return whole_width_rotary(places, frequency, self.num_heads, self.inner, pairs=self.pairs)

    @abstractmethod
    def _pixel_positions(
        self, time: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Seconds, and rows and columns of pixels, of tokens counted in latents [S] float32."""


class LTXStack(BaseStack):
    """That of LTX-Video 0.9."""

    pairs, frequency_dtype = True, torch.float32

    def __init__(self, config: LTX, width: int, mlp_dim: int) -> None:
        super().__init__(config, width, mlp_dim, LTXBlock)
        self.causal_times = config.causal_times

    def _pixel_positions(
        self, time: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Start of a latent in time and space."""
        begins = first_image(time, causal=self.causal_times)
        return begins / self.fps, STRIDE[1] * row, STRIDE[2] * column


class LTX2Stack(BaseStack):
    """That of the video half of LTX-2."""

    pairs, frequency_dtype = False, torch.float64

    def __init__(self, config: LTX2, width: int, mlp_dim: int) -> None:
        block = LTX23Block if config.design == "2.3" else LTX2Block
        super().__init__(config, width, mlp_dim, block)

    def _pixel_positions(
        self, time: Tensor, row: Tensor, column: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Center of a latent in time and space."""
        begins, ends = (first_image(t, causal=True) for t in (time, time + 1))
        seconds = (begins / self.fps + ends / self.fps) / 2
        return seconds, STRIDE[1] * (row + 0.5), STRIDE[2] * (column + 0.5)
