"""The layers of CLIP's two towers, under the names that transformers gives their parameters.

    x --norm--> attention --> + --norm--> two linear layers --> +

Source: Radford et al. 2021 (arXiv:2103.00020). Letters as in `wamkit.interfaces.types`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import LayerNorm, split_heads

Activation = Callable[[Tensor], Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    """x * sigmoid(1.702 x), what OpenAI's CLIP models were trained with."""
    return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention over all tokens, or over those up to the own one."""

    def __init__(self, width: int, heads: int, *, causal: bool) -> None:
        super().__init__()
        self.head_dim, self.causal = width // heads, causal
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (
            nn.Linear(width, width) for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        q, k, v = (
            split_heads(to(x), self.head_dim) for to in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, activation, linear."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return self.fc2(self.activation(self.fc1(x)))


class Layer(nn.Module):
    """Attention, then the linear layers, each after a norm and around a residual."""

    def __init__(self, width: int, heads: int, activation: Activation, *, causal: bool) -> None:
        super().__init__()
        self.self_attn = Attention(width, heads, causal=causal)
        self.layer_norm1, self.layer_norm2 = LayerNorm(width), LayerNorm(width)
        self.mlp = MLP(width, 4 * width, activation)

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class Encoder(nn.Module):
    """A stack of layers."""

    def __init__(
        self, layers: int, width: int, heads: int, activation: Activation, *, causal: bool
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(width, heads, activation, causal=causal) for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        for layer in self.layers:
            x = layer(x)
        return x
