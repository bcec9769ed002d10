"""One block of Qwen-Image's transformer: text and frames are two streams that attend jointly."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor, nn

from wamkit.engine.layers import FeedForward, one_plus_scale
from wamkit.interfaces.dual_stream import DualStreamBlock, JointAttention


class QwenSigma(NamedTuple):
    """Noise levels for blocks and final layer."""

    embedding: Tensor  # [R, D] float32, behind SiLU


class QwenImageBlock(DualStreamBlock):
    """A block with modulation of its own, under diffusers' names."""

    def __init__(
        self, width: int, num_heads: int, head_dim: int, mlp_dim: int, *, text: bool
    ) -> None:
        super().__init__()
        self.img_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
        self.attn = JointAttention(width, num_heads, head_dim, text=text)
        self.img_mlp = FeedForward(width, mlp_dim)
        if text:
            self.txt_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
            self.txt_mlp = FeedForward(width, mlp_dim)

    def modulation(self, sigma: QwenSigma, of_text: bool = False) -> Tensor:
        linear: Any = (self.txt_mod if of_text else self.img_mod)[1]
        rows: Tensor = linear(sigma.embedding.to(linear.weight.dtype)).float()
        return one_plus_scale(rows.unflatten(-1, (6, -1)))

    def feed_forward(self, x: Tensor, of_text: bool) -> Tensor:
        return (self.txt_mlp if of_text else self.img_mlp)(x)
