"""Blocks of LTX-Video's transformer and of the video half of LTX-2's, opened at self-attention.

    x --ada norm--> q k v --(attention)--> * gate + --> x
    x [--norm] [--ada norm]--> q --(attention to the prompt)--> [* gate] + --> x
    x --ada norm--> feed-forward --> * gate + --> x

LTX-Video has no norm before cross-attention, LTX-2.0 a plain one, LTX-2.3 an adaptive one and a
gate; there the noise level also modulates the prompt. Norms have no weights, and divide by the root
of the mean square. Shift, scale and gate belong to a group of tokens with one noise level and are
computed in float32. Between cross-attention and feed-forward the full LTX-2 lets the video attend
to the audio; that attention is left out. Letters as in `wamkit.interfaces.types`. The width D need
not be H * E: an action expert is narrower than its attention.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.layers import (
    KV,
    QKV,
    FeedForward,
    RotaryEmbedding,
    TextCond,
    TextKV,
    ada_rms_norm,
    additive_mask,
    gated_add,
    one_plus_scale,
    rotate_halves,
    rotate_pairs,
)

from .attention import CrossAttention, SelfAttention


class LTXSigma(NamedTuple):
    """Noise levels for blocks and final layer, float32."""

    embedding: Tensor  # [R, D]
    projection: Tensor  # [R, 6 or 9, D]
    prompt: Tensor | None  # [R, 2, text width] what modulates the prompt, in 2.3


class LTXBlock(nn.Module):
    """The block of LTX-Video: self-attention, cross-attention to the prompt, feed-forward."""

    vectors: ClassVar[int] = 6
    """Shifts, scales and gates of a block."""
    eps: ClassVar[float] = 1e-5
    gated: ClassVar[bool] = False
    rotate = staticmethod(rotate_pairs)

    def __init__(
        self, width: int, text_width: int, num_heads: int, head_dim: int, mlp_dim: int
    ) -> None:
        super().__init__()
        self.scale_shift_table = nn.Parameter(torch.randn(self.vectors, width) / width**0.5)
        more: dict[str, Any] = {"eps": self.eps, "gated": self.gated}
        self.attn1 = SelfAttention(width, width, num_heads, head_dim, **more)
        self.attn2 = CrossAttention(width, text_width, num_heads, head_dim, **more)
        self.ff = FeedForward(width, mlp_dim)

    def modulation(self, sigma: LTXSigma) -> Tensor:
        """Shift, 1 + scale, gate of the attention, then of the feed-forward: [R, 6, D]."""
        return one_plus_scale(self.scale_shift_table.float() + sigma.projection)

    def text_kv(self, text: TextCond) -> TextKV:
        """Keys and values of the prompt."""
        return TextKV(KV(*self.attn2.kv(text.tokens), text.mask))  # type: ignore[arg-type]

    def pre_attention(
        self, x: Tensor, modulation: Tensor, rotary: RotaryEmbedding
    ) -> tuple[QKV, tuple[Tensor | None, ...]]:
        shift, scale, *_ = self._vectors(modulation)
        q, k, v, gates = self.attn1.qkv(ada_rms_norm(x, shift, scale))
        return QKV(self.rotate(q, rotary), self.rotate(k, rotary), v), (x, gates)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Tensor, text_kv: TextKV
    ) -> Tensor:
        (x, gates), (_, _, gate, shift, scale, gate_ff, *_) = carry, self._vectors(modulation)
        x = gated_add(x, gate, self.attn1.out(attended, gates))
        x = self._cross_attention(x, modulation, text_kv)
        return gated_add(x, gate_ff, self.ff(ada_rms_norm(x, shift, scale)))

    def _vectors(self, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shifts, 1 + scales and gates [B or 1, G, D] each."""
        return modulation.unbind(2)

    def _cross_attention(self, x: Tensor, modulation: Tensor, text_kv: TextKV) -> Tensor:
        """Add cross-attention to the prompt to tokens [B, S, D]."""
        assert text_kv.text is not None
        return x + self.attn2(x, text_kv.text)


class LTX2Block(LTXBlock):
    """The block of LTX-2.0."""

    eps = 1e-6
    rotate = staticmethod(rotate_halves)

    def _cross_attention(self, x: Tensor, modulation: Tensor, text_kv: TextKV) -> Tensor:
        assert text_kv.text is not None
        y = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)
        return x + self.attn2(y, text_kv.text)


class LTX23Block(LTX2Block):
    """The block of LTX-2.3, whose prompt follows the noise level of the tokens that read it.

    Keys that follow the level are made in each step: of all levels of a run they would take more
    memory than the weights. Tokens that share a level share the keys.
    """

    vectors = 9
    gated = True

    def __init__(
        self, width: int, text_width: int, num_heads: int, head_dim: int, mlp_dim: int
    ) -> None:
        super().__init__(width, text_width, num_heads, head_dim, mlp_dim)
        self.own = self.vectors * width  # elements of modulation that belong to the tokens
        self.prompt_scale_shift_table = nn.Parameter(torch.randn(2, text_width) / text_width**0.5)

    def modulation(self, sigma: LTXSigma) -> Tensor:
        """9 vectors of the tokens, then shift and 1 + scale of the prompt: [R, 9 D + 2 W]."""
        assert sigma.prompt is not None
        prompt = one_plus_scale(self.prompt_scale_shift_table.float() + sigma.prompt)
        return torch.cat([super().modulation(sigma).flatten(1), prompt.flatten(1)], 1)

    def text_kv(self, text: TextCond) -> TextKV:
        """The prompt itself."""
        return TextKV(cond=text)

    def _vectors(self, modulation: Tensor) -> tuple[Tensor, ...]:
        return modulation[..., : self.own].unflatten(-1, (self.vectors, -1)).unbind(2)

    def _cross_attention(self, x: Tensor, modulation: Tensor, text_kv: TextKV) -> Tensor:
        assert text_kv.cond is not None
        *_, shift, scale, gate = self._vectors(modulation)
        prompt, groups = modulation[..., self.own :], modulation.shape[1]
        kv = self._group_kv(text_kv.cond, prompt.unflatten(-1, (2, -1)), x.dtype)
        y = ada_rms_norm(x, shift, scale).unflatten(1, (groups, -1)).flatten(0, 1)
        attended = self.attn2(y, kv)  # [B G, S / G, D]
        return gated_add(x, gate, attended.reshape(x.shape))

    def _group_kv(self, text: TextCond, prompt: Tensor, dtype: torch.dtype) -> KV:
        """Keys and values [B G, H, L, E] of the prompt for each of G groups of tokens.

        `prompt` is shift and 1 + scale [B or 1, G, 2, W].
        """
        assert text.tokens is not None
        shift, scale = prompt.unsqueeze(3).unbind(2)  # [B or 1, G, 1, W] each
        tokens = text.tokens.unsqueeze(1).float() * scale + shift  # [B, G, L, W]
        k, v = self.attn2.kv(tokens.flatten(0, 1).to(dtype))
        mask, count = text.mask, prompt.shape[1]
        if mask is not None and count > 1:  # with rows aligned as those of one group
            mask = additive_mask(mask.repeat_interleave(count, 0), mask.dtype)
        return KV(k, v, mask)
