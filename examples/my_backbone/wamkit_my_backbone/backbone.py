"""A single-stream video diffusion transformer, opened at its self-attention.

    words  [B, L, text width] ---+
                                 +--embed--> x [B, S, D] --blocks--> x --unembed--> velocity
    frames [B, C, T, h, w] ------+

Who attends to whom, what is cached and how an action head joins is wamkit's business: it takes the
queries, keys and values of a block, and hands back what was attended to.

Letters: B batch, T latent frames, C latent channels, h w latent height and width, p patch, r c
token rows and columns, S tokens, D width, H heads, E head size, L words.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo, Rungs, of_levels, spread
from wamkit.config.parts import Traits
from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.layers import (
    Embedder,
    RMSNorm,
    modulated,
    rotary_angles,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.interfaces.types import Frames, Segment, Text


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; wamkit carries it and never looks inside."""

    shift: Tensor  # [B, S, D] from the noise level of each token
    scale: Tensor  # [B, S, D]
    gate: Tensor  # [B, S, D]
    cos: Tensor  # [S, E / 2] rotary positions
    sin: Tensor  # [S, E / 2]
    words: int  # L, tokens before those of the video
    grid: tuple[int, int, int]  # T, r, c


class ParallelBlock(nn.Module):
    """Attention and feed-forward on the same input, added at once (ViT-22B, arXiv 2302.05442).

    x --norm, scale, shift--> enter --+--> q k v --> attention --+--> leave --gate--> + x
                                      +--> GELU -----------------+
    """

    def __init__(self, width: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.sizes = [width, width, width, 4 * width]  # q, k, v, hidden of the feed-forward
        self.enter = nn.Linear(width, sum(self.sizes))
        self.norm_q, self.norm_k = RMSNorm(head_size), RMSNorm(head_size)
        self.leave = nn.Linear(width + 4 * width, width)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        """Tokens [B, S, D] to q, k, v [B, H, S, E], and what `absorb` needs besides."""
        y = self.enter(modulated(x, cond.shift, cond.scale))
        q, k, v, hidden = y.split(self.sizes, -1)
        q, k, v = (split_heads(part, self.head_size) for part in (q, k, v))
        q = rotate_pairs(self.norm_q(q), cond.cos, cond.sin)
        k = rotate_pairs(self.norm_k(k), cond.cos, cond.sin)
        return QKV(q, k, v), (x, hidden)

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        """What was attended to [B, S, H * E] to the next tokens [B, S, D]."""
        x, hidden = rest
        return x + cond.gate * self.leave(torch.cat([attended, F.gelu(hidden)], -1))


class Transformer(nn.Module):
    """`wamkit.interfaces.VideoBackbone` of any size."""

    attend = staticmethod(sdpa)  # softmax attention; a linear one would go here

    def __init__(self, traits: Traits) -> None:
        super().__init__()
        self.traits = traits
        width, patch = traits.width, traits.latent_channels * traits.patch[1] * traits.patch[2]
        self.words_in = nn.Linear(traits.text_width, width)
        self.patches_in, self.patches_out = nn.Linear(patch, width), nn.Linear(width, patch)
        self.time = Embedder(width, width, nn.SiLU())
        self.modulation = nn.Linear(width, 3 * width)  # one for all blocks
        self.blocks = nn.ModuleList(
            ParallelBlock(width, traits.head_size) for _ in range(traits.depth)
        )

    def embed(
        self, video: Frames, text: Text | None
    ) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Words, then patches, as tokens; one segment for each run of tokens of a role.

        `text` is None where the keys of the words are cached already.
        """
        dtype, p = self.patches_in.weight.dtype, self.traits.patch[1]
        z = video.z.to(dtype).unflatten(4, (-1, p)).unflatten(3, (-1, p))  # [B, C, T, r, p, c, p]
        grid = (z.shape[2], z.shape[3], z.shape[5])
        per_frame = grid[1] * grid[2]
        x = self.patches_in(z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)).flatten(1, 3)
        segments, count = video.segments(per_frame), 0
        if text is not None:
            words = self.words_in(text.tokens.to(dtype))
            x, count = torch.cat([words, x], 1), words.shape[1]
            # The mask hides the padding of the text from everything that looks at it.
            segments = (Segment("text", count, text.mask), *segments)

        # Each frame has a noise level of its own, and words are never noisy. That is what allows
        # the words and the observed frames to be computed once and kept.
        each = self._modulation(video.sigma, video.memo, video.ladder)  # of frames
        each = each.expand(len(z), grid[0], -1).repeat_interleave(per_frame, 1)  # of patches
        if text is not None:
            clean = text.memo.once(
                (id(self), "clean"), lambda: self._of_levels(video.sigma.new_zeros(1, 1))
            )
            each = torch.cat([clean[0].expand(len(z), count, -1), each], 1)
        shift, scale, gate = each.chunk(3, -1)
        # What depends on places alone is the same at every denoising step: made once, and kept.
        cos, sin = video.memo.once(
            (id(self), "turn", count), lambda: self._turn(_places(video, count, grid))
        )
        return x, segments, Conditioning(shift, scale, gate, cos, sin, count, grid)

    def place(
        self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None
    ) -> Conditioning:
        """What S tokens of no frame need in these blocks, at levels [B, S] and places [S, 3].

        It is how an action head sends tokens of its own through the blocks of the video. `rungs`
        is what is known of the levels when a chunk begins.
        """
        shift, scale, gate = self._modulation(sigma, text.memo, rungs).chunk(3, -1)
        # Such tokens are no words: the first of the four axes is 0.
        cos, sin = text.memo.once((id(self), "turn"), lambda: self._turn(F.pad(at, (1, 0))), of=at)
        return Conditioning(shift, scale, gate, cos, sin, 0, (sigma.shape[1], 1, 1))

    def _modulation(self, sigma: Tensor, memo: Memo, rungs: Rungs | None) -> Tensor:
        """Shift, scale and gate [B, S, 3 D], or [B, 1, 3 D] if all share a level; B may be 1.

        A chunk knows the levels of its denoising steps when it begins: what the network makes of
        them is computed once for all steps, kept, and looked up.
        """
        (made,), owner = of_levels(memo, (id(self), "levels"), self._of_levels, sigma, rungs)
        return spread(made, owner)

    def _of_levels(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate [B, S, 3 D] for noise levels [B, S] in [0, 1]."""
        wave = sinusoid(1000 * sigma, self.traits.width).to(self.modulation.weight.dtype)
        return (self.modulation(F.silu(self.time(wave))),)

    def _turn(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] of places [S, 4]: word, time, row, column, a quarter of E each."""
        angles = rotary_angles(places, self.traits.head_size // 4, theta=100).flatten(1)
        return angles.cos().float(), angles.sin().float()

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        """Final tokens [B, S, D] to the velocity [B, C, T, h, w] of the frames."""
        p = self.traits.patch[1]
        x = F.layer_norm(x[:, cond.words :], x.shape[-1:])
        z = self.patches_out(x).unflatten(1, cond.grid).unflatten(-1, (-1, p, p))
        return z.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)  # [B, C, T, r p, c p]


def _places(video: Frames, words: int, grid: tuple[int, int, int]) -> Tensor:
    """Where each token stands [S, 4]: its number among the words, or time, row and column."""
    device = video.z.device
    axes = [video.times.to(device).float()]
    axes += [torch.arange(float(n), device=device) for n in grid[1:]]
    places = torch.zeros(words + prod(grid), 4, device=device)
    places[:words, 0] = 1 + torch.arange(words, device=device)
    places[words:, 1:] = torch.cartesian_prod(*axes)
    return places
