"""LTX-Video's transformer between its two ends: frames to tokens, and tokens to velocity.

    z [B, C, T, h, w] --embed--> x [B, S, D] --blocks--> x [B, S, D] --unembed--> velocity

A latent is a token. Source: `ltx_video/models/transformers/transformer3d.py` in
github.com/Lightricks/LTX-Video. Names and shapes of all parameters are those of diffusers'
`LTXVideoTransformer3DModel`. LTX predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.attention import sdpa
from wamkit.layers import Embedder, modulated, sinusoid
from wamkit.types import Frames, Segment, Text

from . import positions
from .blocks import Conditioning, LTXBlock, by_frame

if TYPE_CHECKING:
    from . import LTX, LTX2

LEVELS = 256  # width of the sinusoid of a noise level


class LevelEmbedder(nn.Module):
    """A noise level to its embedding and to `rows` vectors of modulation; diffusers' names."""

    def __init__(self, width: int, rows: int) -> None:
        super().__init__()
        self.emb = nn.ModuleDict({"timestep_embedder": Embedder(LEVELS, width, nn.SiLU())})
        self.linear = nn.Linear(width, rows * width)

    def forward(self, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """sigma [B, T] to an embedding [B, T, D] and modulation [B, T, rows, D], both float32."""
        embedder = self.emb["timestep_embedder"]
        waves = sinusoid(1000 * sigma.float(), LEVELS)
        level = embedder(waves.to(next(embedder.parameters()).dtype)).float()
        rows = self.linear(F.silu(level).to(self.linear.weight.dtype)).float()
        return level, rows.unflatten(-1, (-1, level.shape[-1]))


class Transformer(nn.Module):
    """What LTX-Video and LTX-2's video half share: all but their blocks and positions.

    `rows` vectors of modulation go to each block.
    """

    attend = staticmethod(sdpa)
    keep_float32 = ("timestep_embedder", "scale_shift_table", "norm")
    caption_projection: nn.Module | None
    prompt_adaln: nn.Module | None

    def __init__(self, config: LTX | LTX2, rows: int, block: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.traits = traits = config.traits
        self.fps = config.fps
        width = traits.width
        self.proj_in = nn.Linear(traits.latent_channels, width)
        self.time_embed = LevelEmbedder(width, rows)
        self.caption_projection = Embedder(traits.text_width, width, nn.GELU("tanh"))
        self.prompt_adaln = None
        self.transformer_blocks = nn.ModuleList(block() for _ in range(traits.depth))
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.proj_out = nn.Linear(width, traits.latent_channels)

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.transformer_blocks

    def embed(self, video: Frames, text: Text) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Tokens in the order of frames, then rows, then columns."""
        dtype = self.proj_in.weight.dtype
        x = self.proj_in(video.z.to(dtype).flatten(2).transpose(1, 2))
        level, modulation = self.time_embed(video.sigma)
        prompt = None if self.prompt_adaln is None else self.prompt_adaln(video.sigma)[1]
        words = text.memo.once(
            (id(self), "words"), lambda: self._words(text.tokens.to(dtype)), of=text.tokens
        )
        cos, sin = video.memo.once((id(self), "turn"), lambda: self._turn(video), of=video.times)
        _, _, frames, rows, columns = video.z.shape
        shape = (frames, rows, columns)
        cond = Conditioning(modulation, level, prompt, cos, sin, words, text, shape)
        return x, video.segments(rows * columns), cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        rows = self.scale_shift_table.float() + cond.level.unsqueeze(2)  # [B, T, 2, D]
        shift, scale = rows.unsqueeze(3).unbind(2)  # two of [B, T, 1, D]
        y = self.proj_out(modulated(by_frame(x, cond), shift, scale))  # [B, T, n, C]
        return y.unflatten(2, cond.shape[1:]).movedim(-1, 1)

    def _words(self, tokens: Tensor) -> Tensor:
        """[B, L, text width] to [B, L, D]."""
        return tokens if self.caption_projection is None else self.caption_projection(tokens)

    def _turn(self, video: Frames) -> tuple[Tensor, Tensor]:
        """cos and sin [H, S, E / 2] float32 of each token's time, row and column."""
        raise NotImplementedError(f"{type(self).__name__} must place its tokens")


class LTXBackbone(Transformer):
    """`VideoBackbone` with the architecture of LTX-Video 0.9."""

    def __init__(self, config: LTX) -> None:
        traits = config.traits
        super().__init__(config, 6, lambda: LTXBlock(traits.width, traits.head_size))
        self.causal_times = config.causal_times

    def _turn(self, video: Frames) -> tuple[Tensor, Tensor]:
        """Of where a latent begins; frequencies are float32, as those it was trained with."""
        device, width = video.z.device, self.traits.width
        begins = positions.first_picture(video.times.to(device), causal=self.causal_times)
        rows, columns = (
            stride * torch.arange(n, device=device, dtype=torch.float32)
            for stride, n in zip(positions.STRIDE[1:], video.z.shape[3:], strict=True)
        )
        places = positions.lattice(begins / self.fps, rows, columns)
        frequency = positions.frequencies(width, torch.float32, device)
        return positions.turns(places, frequency, self.traits.heads, width)
