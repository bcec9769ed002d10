"""What the blocks of both FLUX generations share: modulation, double and single blocks.

    double   text   --ada norm--> q k v --+               +--> * gate + --> feed-forward
             frames --ada norm--> q k v --+--(attention)--+--> * gate + --> feed-forward
    single   both   --ada norm--> q k v -----(attention)--+
                              `--> feed-forward ----------+--> * gate + -->

Text and frames are two streams. In a double block each has weights of its own, in a single block
both have the same. Shift, scale and gate belong to a group of tokens with one noise level; they,
norms, rotary positions and residuals are computed in float32. The width D need not be H * E: an
action expert is narrower than its attention, and no text tokens pass it.

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
    RotaryEmbedding,
    TextCond,
    ada_norm,
    gated_add,
    one_plus_scale,
    rotate_pairs,
)
from wamkit.interfaces.dual_stream import Carry, DualStreamBlock, JointAttention


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


class DoubleBlock(DualStreamBlock):
    """A block with other weights for text tokens."""

    def __init__(
        self, sizes: BlockSizes, mlp: Callable[[int, int], nn.Module], *, bias: bool
    ) -> None:
        super().__init__()
        self.attn = JointAttention(
            sizes.width, sizes.num_heads, sizes.head_dim, text=sizes.text, bias=bias
        )
        self.ff = mlp(sizes.width, sizes.hidden)
        if sizes.text:
            self.ff_context = mlp(sizes.width, sizes.hidden)

    def feed_forward(self, x: Tensor, of_text: bool) -> Tensor:
        return (self.ff_context if of_text else self.ff)(x)  # type: ignore[no-any-return]


class SingleBlock(nn.Module, ABC):
    """`Block` of text tokens and frames alike: attention and feed-forward from one norm."""

    @abstractmethod
    def modulation(self, sigma: Any) -> Tensor:
        """Shift, 1 + scale and gate [R, 3, D]."""

    @abstractmethod
    def project_in(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens [B, S, D] to q, k and v [B, H, S, E], and the input of the feed-forward."""

    @abstractmethod
    def project_out(self, attended: Tensor, hidden: Tensor) -> Tensor:
        """[B, S, H * E] and the input of the feed-forward to [B, S, D]."""

    def text_kv(self, text: TextCond) -> None:
        return None

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, Carry]:
        shift, scale, _ = modulation.unbind(2)
        q, k, v, hidden = self.project_in(ada_norm(x, shift, scale))
        return QKV(rotate_pairs(q, rotary), rotate_pairs(k, rotary), v), (x, hidden)

    def post_attention(
        self, attended: Tensor, carry: Carry, modulation: Tensor, text_kv: None
    ) -> Tensor:
        x, hidden = carry
        return gated_add(x, modulation[:, :, 2], self.project_out(attended, hidden))
