"""Cosmos' blocks with what they are conditioned on: noise levels, words, and places of tokens.

The middle of the backbone, and by itself an action expert. Source: `MinimalV1LVGDiT` in
github.com/nvidia-cosmos/cosmos-predict2 (Apache-2.0 code), under the parameter names of diffusers'
`CosmosTransformer3DModel`. Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo, Rungs, spread, stacked

from wamkit.engine.layers import RMSNorm, rotary_angles, sinusoid
from wamkit.interfaces.types import Text

from .blocks import Conditioning, CosmosBlock, Level

if TYPE_CHECKING:
    from . import Cosmos

BASE_FPS = 24  # pictures a second at which places in time are not scaled

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, E / 2] float32 of rotary positions."""


class TimeEmbedder(nn.Module):
    """Two linear layers with SiLU between, under diffusers' names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, width, bias=False)
        self.linear_2 = nn.Linear(width, 3 * width, bias=False)

    def forward(self, waves: Tensor) -> Tensor:
        """[..., D] to [..., 3 D]."""
        return self.linear_2(F.silu(self.linear_1(waves)))


class TimeEmbedding(nn.Module):
    """Noise levels to what all layers share and to what each makes its own part of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.t_embedder = TimeEmbedder(width)
        self.norm = RMSNorm(width)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """t [B, T] in [0, 1) to [B, T, 3 D] and, after SiLU, [B, T, D], both float32."""
        waves = sinusoid(t, self.width)
        shared = self.t_embedder(waves.to(self.t_embedder.linear_1.weight.dtype)).float()
        return shared, F.silu(self.norm(waves))


class CosmosStack(nn.Module):
    """Blocks over tokens of any width, in the heads of the backbone, and embedders for them."""

    keep_float32 = ("time_embed", r"norm_[qk]\.weight$")
    # What reads the sinusoid of the noise level, which is as wide as the model: weight and axis.
    sinusoid_axes = (
        (r"^time_embed\.t_embedder\.linear_1\.weight$", 1),
        (r"^time_embed\.norm\.weight$", 0),
        (r"(norm\d|norm_out)\.linear_1\.weight$", 1),
    )

    def __init__(self, config: Cosmos, width: int, feed_forward: int) -> None:
        super().__init__()
        self.head_size, self.rope_scale = config.head_size, config.rope_scale
        self.speed = 1.0 if config.fps is None else BASE_FPS / config.fps
        self.time_embed = TimeEmbedding(width)
        self.crossattn_proj: nn.Module = nn.Identity()
        if config.text_stack:
            words = nn.Linear(config.text_stack, config.text_width)
            self.crossattn_proj = nn.Sequential(words, nn.GELU())
        self.transformer_blocks = nn.ModuleList(
            CosmosBlock(width, feed_forward, config) for _ in range(config.layers)
        )

    @property
    def blocks(self) -> nn.ModuleList:
        """The stack, input side first."""
        return self.transformer_blocks

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """As `VideoBackbone.place`; every token has a level of its own, announced as it is."""
        turned = text.memo.once((id(self), "turn"), lambda: self._turn(at), of=at)
        if rungs is None or torch.is_grad_enabled():
            level = self._embedded(sigma)
        else:
            level = self._known(rungs, text.memo)
        return self._condition(level, turned, text, (sigma.shape[1], 1, 1))

    def _embedded(self, sigma: Tensor) -> Level:
        """Noise levels [B, T] of frames, for the blocks."""
        dtype = self.transformer_blocks[0].get_parameter("attn1.to_q.weight").dtype
        shared, own = self.time_embed(sigma.float())
        return Level(shared, own.to(dtype))

    def _known(self, rungs: Rungs, memo: Memo) -> Level:
        """The same of levels that are known at the start of a chunk: looked up."""
        (rows, *out), owner = rungs.once(memo, (id(self), "level"), self._rows)
        return Level(None, None, rows, owner, *(spread(x, owner) for x in out))

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """What all blocks make of sigma [R, G]: [R, G, blocks, 9 D] float32."""
        level = self._embedded(sigma)
        shared, own = level.shared, level.own
        assert shared is not None
        return (stacked(self.blocks, shared, lambda block: block.modulation(shared, own)),)

    def _condition(
        self, level: Level, turned: Turn, text: Text, shape: tuple[int, int, int]
    ) -> Conditioning:
        """Noise levels of frames, positions and words, for the blocks."""
        dtype = self.transformer_blocks[0].get_parameter("attn1.to_q.weight").dtype
        words = text.lasting.once(
            (id(self), "words"),
            lambda: self.crossattn_proj(text.tokens.to(dtype)),
            of=text.tokens,
        )
        return Conditioning(level, *turned, words, text, shape)

    def _turn(self, at: Tensor) -> Turn:
        """The time, row and column of each token `at` [S, 3] as rotary positions.

        Row and column take 2 * (E // 6) numbers of a head each, time takes the others. An axis of n
        numbers turns with the base 10000 scale^(n / (n - 2)) (NTK-aware scaling).
        """
        space = 2 * (self.head_size // 6)
        sizes = (self.head_size - 2 * space, space, space)
        time, row, column = at.double().unbind(-1)
        angles = torch.cat(
            [
                rotary_angles(place, n, theta=10_000 * scale ** (n / (n - 2)))
                for place, n, scale in zip(
                    (time * self.speed, row, column), sizes, self.rope_scale, strict=True
                )
            ],
            -1,
        )
        return angles.cos().float(), angles.sin().float()
