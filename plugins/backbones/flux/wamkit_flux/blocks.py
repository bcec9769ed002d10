"""What the blocks of both FLUX generations share: joint attention, double and single blocks.

    double   text   --ada norm--> q k v --+               +--> * gate + --> feed-forward
             frames --ada norm--> q k v --+--(attention)--+--> * gate + --> feed-forward
    single   both   --ada norm--> q k v -----(attention)--+
                              `--> feed-forward ----------+--> * gate + -->

Text and frames are two streams. In a double block each has weights of its own, in a single block
both have the same. Shift, scale and gate belong to a group of tokens with one noise level; they,
norms, rotary positions and residuals are computed in float32. The width D need not be H * E: an
action expert is narrower than what it attends with, and no text tokens pass it.

Source: `src/flux2/model.py` in github.com/black-forest-labs/flux2 (Apache-2.0), under the parameter
names of diffusers' `Flux2Transformer2DModel` and `FluxTransformer2DModel`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from wamkit.config.parts import Traits
from wamkit.engine.layers import (
    QKV,
    RMSNorm,
    RotaryEmbedding,
    TextCond,
    ada_norm,
    fused_linear,
    gated_add,
    one_plus_scale,
    rotate_pairs,
    split_heads,
)

Carry = tuple[Tensor, ...]


@dataclass(frozen=True)
class BlockSizes:
    """What all blocks of a stack have in common."""

    width: int  # D
    num_heads: int  # H
    head_dim: int  # E
    hidden: int  # width inside a feed-forward
    text: bool = True  # whether text tokens pass the double blocks

    @staticmethod
    def of(traits: Traits) -> BlockSizes:
        """Those of a backbone."""
        return BlockSizes(traits.width, traits.num_heads, traits.head_dim, traits.mlp_dim)

    @property
    def inner(self) -> int:
        """Elements of all heads (H * E)."""
        return self.num_heads * self.head_dim


class Modulation(nn.Module):
    """The projection from noise levels to shifts, scales and gates, under diffusers' names."""

    def __init__(self, width: int, count: int, *, bias: bool, first_scale: int = 1) -> None:
        super().__init__()
        self.count, self.first_scale = count, first_scale
        self.linear = nn.Linear(width, count * width, bias=bias)

    def forward(self, level: Tensor) -> Tensor:
        """SiLU of embedded levels [R, D] to [R, count, D] float32, with 1 added to scales."""
        rows = self.linear(level.to(self.linear.weight.dtype)).float()
        return one_plus_scale(rows.unflatten(-1, (self.count, -1)), self.first_scale)


class JointAttention(nn.Module):
    """Projections of a double block, under diffusers' names: `add_*` are those of text tokens."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))

    def __init__(self, sizes: BlockSizes, *, bias: bool) -> None:
        super().__init__()
        self.head_dim = size = sizes.head_dim

        def enter() -> nn.Linear:
            return nn.Linear(sizes.width, sizes.inner, bias=bias)

        def leave() -> nn.Linear:
            return nn.Linear(sizes.inner, sizes.width, bias=bias)

        self.to_q, self.to_k, self.to_v = enter(), enter(), enter()
        self.to_out = nn.ModuleList([leave()])
        self.norm_q, self.norm_k = RMSNorm(size), RMSNorm(size)
        if sizes.text:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = enter(), enter(), enter()
            self.to_add_out = leave()
            self.norm_added_q, self.norm_added_k = RMSNorm(size), RMSNorm(size)

    def qkv(self, x: Tensor, of_text: bool) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E] without positions."""
        norms = (self.norm_added_q, self.norm_added_k) if of_text else (self.norm_q, self.norm_k)
        rows = fused_linear(self, x, *self.fuse_groups[of_text])
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return norms[0](q), norms[1](k), v

    def out(self, attended: Tensor, of_text: bool) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return (self.to_add_out if of_text else self.to_out[0])(attended)  # type: ignore[no-any-return]


class DoubleBlock(nn.Module, ABC):
    """`Block` of the frames, with other weights for text tokens: see `TextLane`."""

    def __init__(
        self, sizes: BlockSizes, mlp_dim: Callable[[int, int], nn.Module], *, bias: bool
    ) -> None:
        super().__init__()
        self.attn = JointAttention(sizes, bias=bias)
        self.ff = mlp_dim(sizes.width, sizes.hidden)
        if sizes.text:
            self.ff_context = mlp_dim(sizes.width, sizes.hidden)

    @abstractmethod
    def modulation(self, sigma: Any, of_text: bool = False) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""

    def text_kv(self, text: TextCond) -> None:
        return None

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding, of_text: bool = False
    ) -> tuple[QKV, Carry]:
        shift, scale, *_ = modulation.unbind(2)
        q, k, v = self.attn.qkv(ada_norm(x, shift, scale), of_text)
        return QKV(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v), (x,)

    def post_attention(
        self,
        attended: Tensor,
        carry: Carry,
        modulation: Tensor,
        text_kv: None,
        of_text: bool = False,
    ) -> Tensor:
        (x,), (_, _, gate, shift, scale, gate_ff) = carry, modulation.unbind(2)
        mlp_dim = self.ff_context if of_text else self.ff
        x = gated_add(x, gate, self.attn.out(attended, of_text))
        return gated_add(x, gate_ff, mlp_dim(ada_norm(x, shift, scale)))


class TextLane:
    """`Block` of the text tokens in a double block, which keeps the weights.

    It calls the block's own methods, so that what is wrapped around these holds for text too.
    """

    def __init__(self, block: DoubleBlock) -> None:
        self.block = block

    def modulation(self, sigma: Any) -> Tensor:
        return self.block.modulation(sigma, True)

    def text_kv(self, text: TextCond) -> None:
        return None

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, Carry]:
        return self.block.pre_attention(x, modulation, rotary, True)

    def post_attention(
        self, attended: Tensor, carry: Carry, modulation: Tensor, text_kv: None
    ) -> Tensor:
        return self.block.post_attention(attended, carry, modulation, text_kv, True)


class SingleBlock(nn.Module, ABC):
    """`Block` of text tokens and frames alike: attention and feed-forward from one norm."""

    @abstractmethod
    def modulation(self, sigma: Any) -> Tensor:
        """Shift, 1 + scale and gate [R, 3, D]."""

    @abstractmethod
    def enter(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, S, D] to q, k and v [B, H, S, E], and the input of the feed-forward."""

    @abstractmethod
    def leave(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """[B, S, H * E] and the input of the feed-forward to [B, S, D]."""

    def text_kv(self, text: TextCond) -> None:
        return None

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, Carry]:
        shift, scale, _ = modulation.unbind(2)
        q, k, v, hidden = self.enter(ada_norm(x, shift, scale))
        return QKV(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v), (x, hidden)

    def post_attention(
        self, attended: Tensor, carry: Carry, modulation: Tensor, text_kv: None
    ) -> Tensor:
        x, hidden = carry
        return gated_add(x, modulation[:, :, 2], self.leave(attended, hidden))
