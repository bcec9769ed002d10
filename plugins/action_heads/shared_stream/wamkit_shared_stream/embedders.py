"""Encoders and decoders of vectors, with weights for each of several robots.

mlp_sinusoid   a --linear--> ++ sinusoid of the level --linear, SiLU, linear--> token
               token --norm, linear, ReLU, linear--> velocity
linear         a --linear--> token --norm, linear--> velocity
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import LayerNorm


class Linear(nn.Module):
    """A linear layer of one of several robots; the weights of others are unused."""

    def __init__(self, inputs: int, outputs: int, robots: tuple[int, int]) -> None:
        super().__init__()
        count, self.chosen = robots
        bound = inputs**-0.5  # as torch initializes a linear layer
        self.weight = nn.Parameter(torch.empty(count, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(count, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return F.linear(x, self.weight[self.chosen], self.bias[self.chosen])


class Perceptron(nn.Module):
    """Two linear layers with ReLU between them."""

    def __init__(self, inputs: int, width: int, outputs: int, robots: tuple[int, int]) -> None:
        super().__init__()
        self.layer1 = Linear(inputs, width, robots)
        self.layer2 = Linear(width, outputs, robots)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] to [..., outputs]."""
        return self.layer2(F.relu(self.layer1(x)))


class NoisyEmbedder(nn.Module):
    """Vectors and their noise level to tokens.

    DreamZero, `MultiEmbodimentActionEncoder` in `wan_video_dit_action_casual_chunk.py`.
    """

    def __init__(self, size: int, width: int, robots: tuple[int, int]) -> None:
        super().__init__()
        self.W1 = Linear(size, width, robots)
        self.W2 = Linear(2 * width, width, robots)
        self.W3 = Linear(width, width, robots)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        """x [B, n, A] and sinusoids of noise levels [B or 1, n or 1, D] to [B, n, D]."""
        y = self.W1(x)
        both = torch.cat([y, level.to(y.dtype).expand(y.shape)], -1)
        return self.W3(F.silu(self.W2(both)))


class Decoder(nn.Module):
    """Final tokens to velocities: a norm of the head's own, for the backbone's is for frames.

    `hidden` is the width between two layers; None for one layer.
    """

    def __init__(
        self, width: int, size: int, robots: tuple[int, int], *, hidden: int | None, norm: bool
    ) -> None:
        super().__init__()
        self.norm: nn.Module = LayerNorm(width, eps=1e-6) if norm else nn.Identity()
        self.out: nn.Module
        if hidden is not None:
            self.out = Perceptron(width, hidden, size, robots)
        else:
            self.out = Linear(width, size, robots)

    def forward(self, x: Tensor) -> Tensor:
        """[B, n, D] to [B, n, A]."""
        return self.out(self.norm(x))
