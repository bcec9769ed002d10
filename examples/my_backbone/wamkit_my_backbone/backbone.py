"""A single-stream video diffusion transformer: pure functions, called as often as wamkit needs.

    text   [B, L, text width]  --embed_text--+
                                             +--> tokens [B, S, D] --blocks--> final_layer
    frames [B, C, T, h, w]     --patchify----+

Who attends to whom, how often a function runs and how an action head joins is wamkit's business: it
takes the queries, keys and values of a block, and hands back the output of attention.

Letters: B batch, T latent frames, C latent channels, h w latent height and width, L text tokens,
S tokens, D width, H heads, E head size, R noise levels, G groups of tokens that share a level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.config.parts import Traits
from wamkit.engine.layers import (
    QKV,
    Embedder,
    RMSNorm,
    RotaryEmbedding,
    TextCond,
    ada_norm,
    axial_rotary,
    gated_add,
    one_plus_scale,
    patches,
    rotate_pairs,
    sinusoid,
    split_heads,
    unpatched,
)
from wamkit.interfaces import Backbone, Clip
from wamkit.interfaces.types import Text


class SigmaCond(NamedTuple):
    """Noise levels as the blocks read them."""

    rows: Tensor  # [R, 3, D] shift, 1 + scale, gate


class ParallelBlock(nn.Module):
    """Attention and feed-forward on the same input, added at once (ViT-22B, arXiv 2302.05442).

    x --norm, scale, shift--> enter --+--> q k v --> attention --+--> leave --gate--> + x
                                      +--> GELU -----------------+
    """

    def __init__(self, width: int, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.sizes = [width, width, width, 4 * width]  # q, k, v, hidden of the feed-forward
        self.enter = nn.Linear(width, sum(self.sizes))
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        self.leave = nn.Linear(width + 4 * width, width)

    def modulation(self, sigma: SigmaCond) -> Tensor:
        """[R, 3, D]; all blocks share one."""
        return sigma.rows

    def text_kv(self, text: TextCond) -> None:
        """Without cross-attention there is none: text is a stream of tokens."""

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, tuple[Any, ...]]:
        """Tokens [B, S, D] to q, k, v [B, H, S, E], and what `post_attention` needs besides.

        `modulation` holds rows [B or 1, G, 3, D], one for each group of S / G tokens.
        """
        shift, scale, _ = modulation.unbind(2)
        q, k, v, hidden = self.enter(ada_norm(x, shift, scale)).split(self.sizes, -1)
        q, k, v = (split_heads(part, self.head_dim) for part in (q, k, v))
        q, k = rotate_pairs(self.norm_q(q), rotary), rotate_pairs(self.norm_k(k), rotary)
        return QKV(q, k, v), (x, hidden)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: None
    ) -> Tensor:
        """The output of attention [B, S, H * E] to the next tokens [B, S, D]."""
        x, hidden = carry
        y = self.leave(torch.cat([attended, F.gelu(hidden)], -1))
        return gated_add(x, modulation[:, :, 2], y)


class Transformer(Backbone):
    """A backbone of any size."""

    def __init__(self, traits: Traits) -> None:
        super().__init__()
        self.traits = traits
        width, patch = (
            traits.width,
            traits.latent_channels * traits.patch_size[1] * traits.patch_size[2],
        )
        self.text_in = nn.Linear(traits.text_width, width)
        self.patches_in, self.patches_out = nn.Linear(patch, width), nn.Linear(width, patch)
        self.time = Embedder(width, width, nn.SiLU())
        self.modulation = nn.Linear(width, 3 * width)  # one for all blocks
        self.blocks = nn.ModuleList(
            ParallelBlock(width, traits.head_dim) for _ in range(traits.depth)
        )
        self.text_blocks = tuple(self.blocks)  # text tokens pass the same blocks as frames

    def embed_text(self, text: Text) -> TextCond:
        """Text tokens [B, L, D] at the entrance of the blocks."""
        return TextCond(self.text_in(text.tokens.to(self.text_in.weight.dtype)))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> SigmaCond:
        """Noise levels [R] in [0, 1], 0 is data."""
        wave = sinusoid(1000 * sigmas, self.traits.width).to(self.modulation.weight.dtype)
        rows = self.modulation(F.silu(self.time(wave))).float().unflatten(-1, (3, -1))
        return SigmaCond(one_plus_scale(rows))

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        """Positions of text tokens [L, 4]: at time 0, distinguished by an axis of their own."""
        count = torch.arange(text.length, dtype=torch.float64, device=text.tokens.device)
        return F.pad(1 + count[:, None], (3, 0))

    def embed_positions(self, positions: Tensor) -> RotaryEmbedding:
        """Time, row, column and text token turn a quarter of a head each."""
        return axial_rotary(positions, [self.traits.head_dim // 4] * 4, theta=100)

    def patchify(self, clip: Clip) -> Tensor:
        """Latents [B, C, T, h, w] to tokens [B, S, D], frame by frame, row by row."""
        z = clip.latents.to(self.patches_in.weight.dtype)
        return self.patches_in(patches(z, self.traits.patch_size))  # type: ignore[no-any-return]

    def final_layer(self, x: Tensor, modulation: Any, clip: Clip) -> Tensor:
        """Final tokens [B, S, D] to the velocity [B, C, T, h, w]."""
        y = self.patches_out(F.layer_norm(x, x.shape[-1:]))
        return unpatched(y, clip.grid, self.traits.patch_size[1:], channels_last=False)
