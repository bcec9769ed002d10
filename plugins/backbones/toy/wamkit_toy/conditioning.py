"""Other ways than adaLN to tell a block the noise level of its tokens, to compare them.

The four of DiT (Peebles and Xie 2022, "Scalable Diffusion Models with Transformers", arXiv
2212.09748), which names them after where the embedding of the level enters:

    in_context        the tokens          it is added to them at the entry of the block
    cross_attention   cross-attention     it is one more key and value, next to those of the prompt
    adaln             the norms           shift, scale and gate follow from it: `ToyBlock`
    adaln_zero        the norms           the same, with all of them zero before training

In DiT all tokens of an image have one level, and `in_context` appends one token for it. Here each
frame has a level of its own, so each token carries that of its frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import KV, QKV, TextKV, attend_text, split_heads

from .backbone import Positions, ToyBlock


class PlainBlock(ToyBlock):
    """A block whose norms know of no noise level, and whose sums have no gates."""

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: Positions
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        return self.qkv(F.layer_norm(x, x.shape[-1:]), rotary), (x,)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV
    ) -> Tensor:
        (x,) = carry
        x = x + self.to_out(attended)
        assert text_kv.text is not None
        q = split_heads(self.text_q(x), self.head_dim)
        x = x + self.text_out(self.attend(q, text_kv.text, modulation))
        return x + self.ffn(F.layer_norm(x, x.shape[-1:]))

    def attend(self, q: Tensor, text: KV, modulation: Tensor) -> Tensor:
        """Cross-attention of queries [B, H, S, E]: [B, S, H * E]."""
        return attend_text(q, text)


class InContextBlock(PlainBlock):
    """The noise level is in the tokens: its embedding is added to them."""

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__(width, num_heads, head_dim, mlp_dim)
        self.ada = nn.Linear(width, width)

    def modulation(self, sigma: Tensor) -> Tensor:
        """What is added to tokens of each level: [R, 1, D]."""
        return self.ada(sigma).float()[:, None]

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: Positions
    ) -> tuple[QKV, tuple[Tensor, ...]]:
        added = _per_token(modulation[:, :, 0], x.shape[1])
        return super().pre_attention((x.float() + added).to(x.dtype), modulation, rotary)


class CrossAttentionBlock(PlainBlock):
    """The noise level is read by cross-attention: a key and a value of each token's own level."""

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__(width, num_heads, head_dim, mlp_dim)
        self.ada = nn.Linear(width, 2 * num_heads * head_dim)

    def modulation(self, sigma: Tensor) -> Tensor:
        """Key and value of each level: [R, 2, H * E]."""
        return self.ada(sigma).float().unflatten(-1, (2, -1))

    def attend(self, q: Tensor, text: KV, modulation: Tensor) -> Tensor:
        """One softmax over the keys of the prompt and that of the token's own level."""
        k, v = (split_heads(_per_token(z, q.shape[2]), self.head_dim) for z in modulation.unbind(2))
        scale = 1 / math.sqrt(self.head_dim)
        prompt = scale * q.float() @ text.k.float().transpose(2, 3)  # [B, H, S, L]
        if text.mask is not None:
            prompt = prompt + text.mask[:, None, None].float()
        level = scale * (q.float() * k).sum(-1, keepdim=True)  # [B, H, S, 1]
        weights = torch.cat([prompt, level], -1).softmax(-1)
        found = weights[..., :-1] @ text.v.float() + weights[..., -1:] * v
        return found.transpose(1, 2).flatten(2).to(q.dtype)


class AdaLNZeroBlock(ToyBlock):
    """Closed gates at first: before training every block passes on what it is given.

    But for the prompt's cross-attention, which has no gate.
    """

    def __init__(self, width: int, num_heads: int, head_dim: int, mlp_dim: int) -> None:
        super().__init__(width, num_heads, head_dim, mlp_dim)
        nn.init.zeros_(self.ada.weight)
        nn.init.zeros_(self.ada.bias)


BLOCKS: dict[str, type[ToyBlock]] = {
    "in_context": InContextBlock,
    "cross_attention": CrossAttentionBlock,
    "adaln": ToyBlock,
    "adaln_zero": AdaLNZeroBlock,
}


def _per_token(rows: Tensor, tokens: int) -> Tensor:
    """Rows [B or 1, G, D] of groups of tokens as rows of so many tokens [B or 1, S, D]."""
    return rows.repeat_interleave(tokens // rows.shape[1], 1)
