"""The blocks of OmniGen2, opened at their attention.

    x --norm, scale--> q k v --(attention)--norm--> * gate + --> x
    x --norm, scale--> SwiGLU               --norm--> * gate + --> x

There is a norm before and a norm after each half. Scales and gates (through tanh) belong to a group
of tokens with one noise level and are computed in float32, as are norms and rotary positions;
residuals are added in float32. The width D need not be H * E: an action expert is narrower than
its attention.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import (
    QKV,
    RMSNorm,
    RotaryEmbedding,
    attention,
    fused_linear,
    rotate_pairs,
    scaled,
    split_heads,
)

EPS = 1e-5


class SigmaEmbedding(NamedTuple):
    """Noise levels as the blocks read them."""

    embedding: Tensor  # [R, width of levels], through SiLU


class RotaryPositions(NamedTuple):
    """Rotary positions of tokens; `frame` has those of one frame, which refiners read."""

    rotary: RotaryEmbedding
    frame: RotaryEmbedding | None = None


class Heads(NamedTuple):
    """How attention is divided."""

    queries: int  # H
    keys: int  # K
    size: int  # E


class Attention(nn.Module):
    """Projections without biases; q and k are normalized in each head."""

    fuse_groups = (("to_q", "to_k", "to_v"),)

    def __init__(self, width: int, heads: Heads) -> None:
        super().__init__()
        self.head_dim = size = heads.size
        self.to_q = nn.Linear(width, heads.queries * size, bias=False)
        self.to_k, self.to_v = (nn.Linear(width, heads.keys * size, bias=False) for _ in range(2))
        self.to_out = nn.ModuleList([nn.Linear(heads.queries * size, width, bias=False)])
        self.norm_q, self.norm_k = RMSNorm(size, EPS), RMSNorm(size, EPS)

    def qkv(self, x: Tensor, rotary: RotaryEmbedding) -> QKV:
        """[B, S, D] to q [B, H, S, E], and k and v [B, K, S, E]."""
        rows = fused_linear(self, x, "to_q", "to_k", "to_v")
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return QKV(rotate_pairs(self.norm_q(q), rotary), rotate_pairs(self.norm_k(k), rotary), v)


class SwiGLU(nn.Module):
    """Three linear layers without biases; the first, through SiLU, gates the third."""

    fuse_groups = (("linear_1", "linear_3"),)

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear_1, self.linear_3 = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.linear_2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] to [..., width]."""
        gate, up = fused_linear(self, x, "linear_1", "linear_3")
        return self.linear_2(F.silu(gate) * up)


class ModulatedNorm(nn.Module):
    """A norm, and the linear layer that makes all scales and gates of a block."""

    def __init__(self, width: int, level_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(level_width, 4 * width)
        self.norm = RMSNorm(width, EPS)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.norm(x)


class OmniGen2Block(nn.Module):
    """Self-attention and feed-forward; without `level_width`, noise levels do not matter."""

    def __init__(
        self, width: int, heads: Heads, mlp_dim: int, level_width: int | None = None
    ) -> None:
        super().__init__()
        self.norm1 = (
            RMSNorm(width, EPS) if level_width is None else ModulatedNorm(width, level_width)
        )
        self.attn = Attention(width, heads)
        self.norm2 = RMSNorm(width, EPS)
        self.ffn_norm1, self.ffn_norm2 = RMSNorm(width, EPS), RMSNorm(width, EPS)
        self.feed_forward = SwiGLU(width, mlp_dim)

    def modulation(self, sigma: SigmaEmbedding) -> Tensor | None:
        """1 + scale and gate of the attention, then of the feed-forward: [R, 4, D]."""
        if not isinstance(self.norm1, ModulatedNorm):
            return None
        linear = self.norm1.linear
        rows = linear(sigma.embedding.to(linear.weight.dtype)).float().unflatten(-1, (2, 2, -1))
        scale, gate = rows.unbind(2)
        return torch.stack([1 + scale, gate.tanh()], 2).flatten(1, 2)

    def text_kv(self, text: Any) -> None:
        """There is no cross-attention: text is a stream."""
        return

    def pre_attention(
        self, x: Tensor, modulation: Tensor | None, rotary: RotaryPositions
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        y = _times(self.norm1(x.float()), modulation, 0).to(x.dtype)
        return self.attn.qkv(y, rotary.rotary), (x,)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor | None, text_kv: None
    ) -> Tensor:
        (x,) = carry
        y = self.norm2(self.attn.to_out[0](attended).float())
        x = (x.float() + _times(y, modulation, 1)).to(x.dtype)
        y = self.feed_forward(_times(self.ffn_norm1(x.float()), modulation, 2).to(x.dtype))
        return (x.float() + _times(self.ffn_norm2(y.float()), modulation, 3)).to(x.dtype)


def _times(y: Tensor, modulation: Tensor | None, factor: int) -> Tensor:
    """y [B, S, D] times one factor of its groups, if there are any."""
    return y if modulation is None else scaled(y, modulation[:, :, factor])


def refine(
    blocks: Iterable[Any],
    x: Tensor,
    rotary: RotaryEmbedding,
    rows: Iterable[Tensor | None],
    mask: Tensor | None = None,
) -> Tensor:
    """Tokens through blocks in which all of them, and no others, attend to each other.

    Args:
        blocks: The refiner.
        x: [B, S, D].
        rotary: Of the tokens.
        rows: The modulation [B or 1, 1, 4, D] of each block, or None.
        mask: [B, S] to add to attention scores.
    """
    for block, row in zip(blocks, rows, strict=True):
        (q, k, v), carry = block.pre_attention(x, row, RotaryPositions(rotary))
        attended = attention(q, k, v, mask).transpose(1, 2).flatten(2)
        x = block.post_attention(attended, carry, row, None)
    return x
