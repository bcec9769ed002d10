"""Attention of LTX's blocks, under diffusers' names."""

from __future__ import annotations

from torch import Tensor, nn

from wamkit.engine.layers import KV, RMSNorm, attend_text, projected, split_heads


class Attention(nn.Module):
    """Projections; q and k are normalized over all heads at once.

    With `gated`, each query token multiplies the output of each head by a factor in (0, 2). Keys
    and values are made of tokens of width `inputs`.
    """

    together = (
        ("to_gate_logits", "to_q", "to_k", "to_v"),
        ("to_q", "to_k", "to_v"),
        ("to_gate_logits", "to_q"),
        ("to_k", "to_v"),
    )

    def __init__(
        self,
        width: int,
        inputs: int,
        heads: int,
        head_size: int,
        eps: float,
        *,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.head_size, inner = head_size, heads * head_size
        self.to_q = nn.Linear(width, inner)
        self.to_k, self.to_v = nn.Linear(inputs, inner), nn.Linear(inputs, inner)
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(inner, eps), RMSNorm(inner, eps)
        self.to_gate_logits = nn.Linear(width, heads) if gated else None

    def qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """[B, S, D] to q, k, v [B, H, S, E], and gates [B, S, H] if there are any."""
        gates, size = None, self.head_size
        if self.to_gate_logits is None:
            q, k, v = projected(self, x, "to_q", "to_k", "to_v")
        else:
            logits, q, k, v = projected(self, x, "to_gate_logits", "to_q", "to_k", "to_v")
            gates = 2 * logits.sigmoid()
        q, k = split_heads(self.norm_q(q), size), split_heads(self.norm_k(k), size)
        return q, k, split_heads(v, size), gates

    def query(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[B, S, D] to q [B, H, S, E], and gates [B, S, H] if there are any."""
        if self.to_gate_logits is None:
            return split_heads(self.norm_q(self.to_q(x)), self.head_size), None
        logits, q = projected(self, x, "to_gate_logits", "to_q")
        return split_heads(self.norm_q(q), self.head_size), 2 * logits.sigmoid()

    def kv(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, inputs] to two of [B, H, S, E]."""
        k, v = projected(self, x, "to_k", "to_v")
        return split_heads(self.norm_k(k), self.head_size), split_heads(v, self.head_size)

    def out(self, attended: Tensor, gates: Tensor | None) -> Tensor:
        """[B, S, H * E] to [B, S, D]."""
        if gates is not None:
            heads = attended.unflatten(-1, (-1, self.head_size)) * gates.unsqueeze(-1)
            attended = heads.flatten(-2)
        return self.to_out[0](attended)

    def cross(self, x: Tensor, kv: KV) -> Tensor:
        """Cross-attention of tokens [B, S, D] to the prompt: [B, S, D]."""
        q, gates = self.query(x)
        return self.out(attend_text(q, kv), gates)
