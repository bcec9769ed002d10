"""Attention of LTX's blocks, under diffusers' names.

Self-attention joins all its projections into one product; cross-attention joins those of queries,
and apart from them those of keys. In LTX-2.3 a step makes both, and a compiled layer takes no two
inputs that share memory.
"""

from __future__ import annotations

from torch import Tensor, nn

from wamkit.engine.layers import KV, RMSNorm, attend_text, fused_linear, split_heads


class Attention(nn.Module):
    """Projections; q and k are normalized over all heads at once.

    With `gated`, each query token multiplies the output of each head by a factor in (0, 2). Keys
    and values are made of tokens of width `inputs`.
    """

    def __init__(
        self,
        width: int,
        inputs: int,
        num_heads: int,
        head_dim: int,
        eps: float,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.head_dim, inner = head_dim, num_heads * head_dim
        self.to_q = nn.Linear(width, inner)
        self.to_k, self.to_v = nn.Linear(inputs, inner), nn.Linear(inputs, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(inner, eps), RMSNorm(inner, eps)
        self.to_gate_logits = nn.Linear(width, num_heads) if gated else None

    def out(self, attended: Tensor, gates: Tensor | None) -> Tensor:
        """[B, S, H * E], and gates [B, S, H] if there are any, to [B, S, D]."""
        if gates is not None:
            num_heads = attended.unflatten(-1, (-1, self.head_dim)) * gates.unsqueeze(-1)
            attended = num_heads.flatten(-2)
        return self.to_out[0](attended)


class SelfAttention(Attention):
    """Attention whose queries, keys and values come of the same tokens."""

    fuse_groups = (("to_gate_logits", "to_q", "to_k", "to_v"), ("to_q", "to_k", "to_v"))

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[B, S, D] to q, k, v [B, H, S, E], and gates [B, S, H] if there are any."""
        gates, size = None, self.head_dim
        if self.to_gate_logits is None:
            q, k, v = fused_linear(self, x, "to_q", "to_k", "to_v")
        else:
            logits, q, k, v = fused_linear(self, x, "to_gate_logits", "to_q", "to_k", "to_v")
            gates = 2 * logits.sigmoid()
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size), gates


class CrossAttention(Attention):
    """Attention to the prompt."""

    fuse_groups = (("to_gate_logits", "to_q"), ("to_k", "to_v"))

    def kv(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, inputs] to two of [B, H, L, E]."""
        k, v = fused_linear(self, text, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_dim), split_heads(v, self.head_dim)

    def forward(self, x: Tensor, kv: KV) -> Tensor:
        """What tokens [B, S, D] take from the prompt: [B, S, D]."""
        gates = None
        if self.to_gate_logits is None:
            q = self.to_q(x)
        else:
            logits, q = fused_linear(self, x, "to_gate_logits", "to_q")
            gates = 2 * logits.sigmoid()
        return self.out(attend_text(split_heads(self.norm_q(q), self.head_dim), kv), gates)
