"""One block of Cosmos' transformer, opened at its self-attention.

    x --ada norm--> q k v --(attention)--> * gate + --> x
    x --ada norm--> q --(attention to the prompt)--> * gate + --> x
    x --ada norm--> feed-forward --> * gate + --> x

Shift, scale and gate belong to a group of tokens with one noise level. Each sublayer has its own,
of low rank (adaLN-LoRA), on top of one that all blocks share. They are applied in float32, as are
norms and rotary positions, and residuals are added in it. There is no bias anywhere. Letters as in
`wamkit.interfaces.types`. The width D need not be H * E: an action expert is narrower than its
attention.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from wamkit.engine.layers import (
    KV,
    QKV,
    FeedForward,
    RMSNorm,
    RotaryEmbedding,
    TextCond,
    TextKV,
    ada_norm,
    attend_text,
    fused_linear,
    gated_add,
    one_plus_scale,
    rotate_halves,
    split_heads,
)

if TYPE_CHECKING:
    from . import Cosmos


class CosmosSigma(NamedTuple):
    """Noise levels: the modulation that blocks share, and the input of each block's own."""

    shared: Tensor  # [R, 3 D] float32
    embedding: Tensor  # [R, D] after SiLU, in the dtype of the blocks


class LowRankModulation(nn.Module):
    """Noise levels to `count` vectors of width D, through a narrow layer."""

    def __init__(self, width: int, rank: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear_1 = nn.Linear(width, rank, bias=False)
        self.linear_2 = nn.Linear(rank, count * width, bias=False)

    def forward(self, sigma: CosmosSigma) -> Tensor:
        """Levels [R] to [R, count, D] float32."""
        rows = self.linear_2(self.linear_1(sigma.embedding)).float()
        return (rows + sigma.shared[:, : rows.shape[1]]).unflatten(1, (self.count, -1))


class Attention(nn.Module):
    """Projections under diffusers' names; q and k are normalized head by head."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(self, width: int, inputs: int, sizes: Cosmos) -> None:
        super().__init__()
        self.head_dim, inner = sizes.head_dim, sizes.num_heads * sizes.head_dim
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_k, self.to_v = (nn.Linear(inputs, inner, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(inner, width, bias=False)])
        self.norm_q, self.norm_k = (RMSNorm(sizes.head_dim, sizes.qk_norm_eps) for _ in range(2))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E]."""
        rows = fused_linear(self, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return self.norm_q(q), self.norm_k(k), v

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return self.norm_q(split_heads(self.to_q(x), self.head_dim))

    def kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, inputs] to two of [B, H, S, E]."""
        k, v = fused_linear(self, x, "to_k", "to_v")
        return self.norm_k(split_heads(k, self.head_dim)), split_heads(v, self.head_dim)

    def out(self, attended: Tensor) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return self.to_out[0](attended)


class CosmosBlock(nn.Module):
    """Self-attention, cross-attention to the prompt, feed-forward."""

    def __init__(self, width: int, mlp_dim: int, sizes: Cosmos) -> None:
        super().__init__()
        rank = sizes.modulation_rank
        self.norm1, self.norm2, self.norm3 = (LowRankModulation(width, rank, 3) for _ in range(3))
        self.attn1 = Attention(width, width, sizes)
        self.attn2 = Attention(width, sizes.text_width, sizes)
        self.ff = FeedForward(width, mlp_dim, approximate="none", bias=False)

    def modulation(self, sigma: CosmosSigma) -> Tensor:
        """Shift, 1 + scale, gate of each sublayer: [R, 9, D]."""
        norms = self.norm1, self.norm2, self.norm3
        return one_plus_scale(torch.cat([norm(sigma) for norm in norms], 1))

    def text_kv(self, text: TextCond) -> TextKV:
        """Keys and values of the prompt."""
        return TextKV(KV(*self.attn2.kv(text.tokens), text.mask))  # type: ignore[arg-type]

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        shift, scale, *_ = modulation.unbind(2)
        q, k, v = self.attn1.qkv(ada_norm(x, shift, scale))
        return QKV(rotate_halves(q, rotary), rotate_halves(k, rotary), v), (x,)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV
    ) -> Tensor:
        (x,), (_, _, gate, *rest) = carry, modulation.unbind(2)
        x = gated_add(x, gate, self.attn1.out(attended))
        shift, scale, gate = rest[:3]
        assert text_kv.text is not None
        found = attend_text(self.attn2.query(ada_norm(x, shift, scale)), text_kv.text)
        x = gated_add(x, gate, self.attn2.out(found))
        shift, scale, gate = rest[3:]
        return gated_add(x, gate, self.ff(ada_norm(x, shift, scale)))
