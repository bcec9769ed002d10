"""The smallest honest backbone: patches in, blocks opened at self-attention, velocity out.

Read this first. A backbone is a handful of pure functions; everything else (the attention mask,
caching, how an action head joins, how often a function runs) is up to wamkit.

    z [B, C, T, h, w] --patchify--> x [B, S, D] --blocks--> x [B, S, D] --final_layer--> velocity
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.config.parts import Traits
from wamkit.engine.layers import (
    KV,
    QKV,
    Embedder,
    FeedForward,
    RotaryEmbedding,
    TextCond,
    TextKV,
    ada_norm,
    attend_text,
    axial_rotary,
    fused_linear,
    gated_add,
    one_plus_scale,
    patches,
    rotate_pairs,
    sinusoid,
    split_heads,
    unpatched,
)
from wamkit.interfaces import Backbone, Clip, Stack
from wamkit.interfaces.types import Text

MIN_SIGMA = 0.05
"""The noise level below which a prediction of data is taken as if it were made there."""


class Positions(NamedTuple):
    """What tokens know of their places."""

    rotary: RotaryEmbedding
    absolute: Tensor | None = None  # [S, D] float32, added to the tokens of frames


class ToyBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward; each scaled by the noise level.

    The width D need not be H * E: an action expert is narrower than its attention.
    """

    fuse_groups = (("to_q", "to_k", "to_v"),)  # one matrix product where gradients are off

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, num_heads * head_dim
        self.ada = nn.Linear(width, 6 * width)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.Linear(inner, width)
        self.text_q, self.text_out = nn.Linear(width, inner), nn.Linear(inner, width)
        self.to_text_kv = nn.Linear(width, 2 * inner)
        self.ffn = FeedForward(width, mlp_dim)

    def modulation(self, sigma: Tensor) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""
        return one_plus_scale(self.ada(sigma).float().unflatten(-1, (6, -1)))

    def text_kv(self, text: TextCond) -> TextKV:
        """Keys and values of the prompt."""
        k, v = self.to_text_kv(text.tokens).chunk(2, -1)
        return TextKV(KV(split_heads(k, self.head_dim), split_heads(v, self.head_dim), text.mask))

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: Positions
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        shift, scale, *rest = modulation.unbind(2)
        return self.qkv(ada_norm(x, shift, scale), rotary), (x, *rest)

    def qkv(self, y: Tensor, rotary: Positions) -> QKV:
        """Queries, keys and values [B, H, S, E] of normed tokens [B, S, D]."""
        q, k, v = (
            split_heads(z, self.head_dim) for z in fused_linear(self, y, "to_q", "to_k", "to_v")
        )
        return QKV(rotate_pairs(q, rotary.rotary), rotate_pairs(k, rotary.rotary), v)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV
    ) -> Tensor:
        x, gate, shift, scale, gate_ffn = carry
        x = gated_add(x, gate, self.to_out(attended))
        assert text_kv.text is not None
        found = attend_text(split_heads(self.text_q(x), self.head_dim), text_kv.text)
        x = x + self.text_out(found)
        return gated_add(x, gate_ffn, self.ffn(ada_norm(x, shift, scale)))


class ToyStack(Stack):
    """Blocks and their conditioning; an action expert of any width."""

    def __init__(
        self, traits: Traits, width: int, mlp_dim: int, block: type[ToyBlock] = ToyBlock
    ) -> None:
        super().__init__()
        self.traits, self.width = traits, width
        self.time = Embedder(width, width, nn.SiLU())
        self.text = nn.Linear(traits.text_width, width)
        self.blocks = nn.ModuleList(
            block(width, traits.num_heads, traits.head_dim, mlp_dim) for _ in range(traits.depth)
        )

    def embed_text(self, text: Text) -> TextCond:
        dtype = self.text.weight.dtype
        return TextCond(self.text(text.tokens.to(dtype)), text.attention_mask(dtype))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> Tensor:
        """[R] to [R, D]."""
        wave = sinusoid(1000 * sigmas, self.width).to(self.text.weight.dtype)
        return F.silu(self.time(wave))

    def embed_positions(self, positions: Tensor) -> Positions:
        """Rotary positions: they tell where tokens are to each other."""
        pairs = self.traits.head_dim // 2
        sizes = [2 * (pairs - 2 * (pairs // 3)), 2 * (pairs // 3), 2 * (pairs // 3)]
        return Positions(axial_rotary(positions[..., :3], sizes, theta=100))


class ToyBackbone(ToyStack, Backbone):
    """A backbone of any size, with random weights."""

    sinusoid_axes = ((r"^time\.linear_1\.weight$", 1),)  # reads a sinusoid of the model's width

    def __init__(
        self, traits: Traits, predicts: str = "velocity", block: type[ToyBlock] = ToyBlock
    ) -> None:
        super().__init__(traits, traits.width, traits.mlp_dim, block)
        self.predicts = predicts
        patch = traits.latent_channels * traits.patch_size[1] * traits.patch_size[2]
        self.enter, self.leave = nn.Linear(patch, traits.width), nn.Linear(traits.width, patch)

    def embed_grid(self, positions: Tensor, grid: tuple[int, int, int]) -> Positions:
        """Also sinusoids of row and column: they tell where in the image each token is."""
        width = self.width // 4 * 2
        _, r, c = positions.unbind(-1)
        both = torch.cat([sinusoid(r, width, period=100), sinusoid(c, width, period=100)], -1)
        absolute = F.pad(both, (0, self.width - 2 * width))
        return self.embed_positions(positions)._replace(absolute=absolute)

    def patchify(self, clip: Clip) -> Tensor:
        x = self.enter(patches(clip.latents.to(self.enter.weight.dtype), self.traits.patch_size))
        return x + clip.positions.absolute.to(x.dtype)  # type: ignore[no-any-return]

    def final_layer(self, x: Tensor, modulation: Any, clip: Clip) -> Tensor:
        y = self.leave(F.layer_norm(x, x.shape[-1:]))
        z = unpatched(y, clip.grid, self.traits.patch_size[1:], channels_last=False)
        if self.predicts == "velocity":
            return z
        return (clip.latents - z) / clip.sigma[:, None, :, None, None].clamp(min=MIN_SIGMA)
