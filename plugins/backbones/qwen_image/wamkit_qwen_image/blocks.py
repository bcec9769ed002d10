"""One block of Qwen-Image's transformer, opened at its attention.

    text   --ada norm--> q k v --+           +--> * gate + --ada norm--> feed-forward --> * gate +
                                 | attention |
    frames --ada norm--> q k v --+           +--> * gate + --ada norm--> feed-forward --> * gate +

Text and frames are two streams with weights of their own. Shift, scale and gate belong to a group
of tokens with one noise level and are computed in float32, as are norms and rotary positions;
residuals are added in float32. The width D need not be H * E: an action expert is narrower than
what it attends with, and no text tokens pass it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from wamkit.engine.layers import (
    QKV,
    FeedForward,
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


class QwenSigma(NamedTuple):
    """Noise levels for blocks and final layer."""

    embedding: Tensor  # [R, D] float32, behind SiLU


class Attention(nn.Module):
    """Projections under diffusers' names: `add_*` are those of text tokens, if any pass."""

    fuse_groups = (("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj"))

    def __init__(self, width: int, num_heads: int, head_dim: int, *, text: bool) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, num_heads * head_dim
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(head_dim), RMSNorm(head_dim)
        if text:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                nn.Linear(width, inner) for _ in range(3)
            )
            self.to_add_out = nn.Linear(inner, width)
            self.norm_added_q, self.norm_added_k = RMSNorm(head_dim), RMSNorm(head_dim)

    def qkv(self, x: Tensor, of_text: bool) -> tuple[Tensor, Tensor, Tensor]:
        """[B, S, D] to q, k and v [B, H, S, E] without positions."""
        norms = (self.norm_added_q, self.norm_added_k) if of_text else (self.norm_q, self.norm_k)
        rows = fused_linear(self, x, *self.fuse_groups[of_text])
        q, k, v = (split_heads(row, self.head_dim) for row in rows)
        return norms[0](q), norms[1](k), v

    def out(self, attended: Tensor, of_text: bool) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        return (self.to_add_out if of_text else self.to_out[0])(attended)  # type: ignore[no-any-return]


class QwenImageBlock(nn.Module):
    """`Block` of the frames, with other weights for text tokens: see `TextLane`."""

    def __init__(
        self, width: int, num_heads: int, head_dim: int, mlp_dim: int, *, text: bool
    ) -> None:
        super().__init__()
        self.img_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
        self.attn = Attention(width, num_heads, head_dim, text=text)
        self.img_mlp = FeedForward(width, mlp_dim)
        if text:
            self.txt_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
            self.txt_mlp = FeedForward(width, mlp_dim)

    def modulation(self, sigma: QwenSigma, of_text: bool = False) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""
        linear: Any = (self.txt_mod if of_text else self.img_mod)[1]
        rows: Tensor = linear(sigma.embedding.to(linear.weight.dtype)).float()
        return one_plus_scale(rows.unflatten(-1, (6, -1)))

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
        mlp_dim = self.txt_mlp if of_text else self.img_mlp
        x = gated_add(x, gate, self.attn.out(attended, of_text))
        return gated_add(x, gate_ff, mlp_dim(ada_norm(x, shift, scale)))


class TextLane:
    """`Block` of the text tokens in a block, which keeps the weights.

    It calls the block's own methods, so that what is wrapped around these holds for text too.
    """

    def __init__(self, block: QwenImageBlock) -> None:
        self.block = block

    def modulation(self, sigma: QwenSigma) -> Tensor:
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
