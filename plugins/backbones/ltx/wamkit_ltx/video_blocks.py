"""One block of the video half of LTX-2's transformer, opened at its self-attention.

    x --norm, shift, scale--> q k v --(attention)--> * gate + --> x
    x --norm [, shift, scale]--> q --(attention to the words)--> [* gate] + --> x
    x --norm, shift, scale--> feed-forward --> * gate + --> x

In brackets what 2.3 adds; there the noise level also scales and shifts the words. Between words and
feed-forward the full model lets the video hear the audio; that attention is left out. Letters as in
`wamkit.interfaces.types` and `.blocks`; words are as wide as a token in 2.0, and of the text's
width in 2.3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.engine.attention import QKV, sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import FeedForward
from wamkit.interfaces.text import mask_of

from .blocks import (
    Attention,
    Conditioning,
    added,
    listened,
    modulation,
    rms_modulated,
    said,
)
from .positions import rotate_halves

if TYPE_CHECKING:
    from . import LTX2


class LTX2Block(nn.Module):
    """Self-attention, cross-attention to the words, feed-forward, in the design of 2.0 or 2.3."""

    def __init__(self, config: LTX2, width: int, feed_forward: int) -> None:
        super().__init__()
        newer, shape = config.design == "2.3", (config.heads, config.head_size)
        words = config.text_width if newer else width
        self.scale_shift_table = nn.Parameter(torch.randn(9 if newer else 6, width) / width**0.5)
        self.attn1 = Attention(width, width, *shape, 1e-6, gated=newer)
        self.attn2 = Attention(width, words, *shape, 1e-6, gated=newer)
        self.ff = FeedForward(width, feed_forward)
        if newer:
            self.prompt_scale_shift_table = nn.Parameter(torch.randn(2, words) / words**0.5)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        shift, scale, gate, *rest = modulation(self.scale_shift_table, cond.modulation)
        y = rms_modulated(x, shift, scale, cond)
        q, k, v, gates = self.attn1.enter(y)
        turn = cond.cos, cond.sin
        shown = QKV(rotate_halves(q, *turn), rotate_halves(k, *turn), v)
        return shown, (x, gates, gate, *rest)

    def told(self, cond: Conditioning) -> tuple[KV | None, Tensor | None]:
        """What the words say; where they follow the level of each frame, which of them may."""
        if cond.prompt is None:
            return said(self.attn2, cond), None
        return None, mask_by_frame(cond, cond.words.dtype)

    def absorb(
        self,
        attended: Tensor,
        rest: Any,
        cond: Conditioning,
        told: tuple[KV | None, Tensor | None] | None = None,
    ) -> Tensor:
        words, mask = self.told(cond) if told is None else told
        x, gates, gate, shift, scale, gate_ff, *text = rest
        x = added(x, gate, self.attn1.leave(attended, gates), cond)
        if words is not None:
            y = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6).to(x.dtype)
            x = x + listened(self.attn2, y, words)
        else:
            shift_q, scale_q, gate_q = text
            y = rms_modulated(x, shift_q, scale_q, cond)
            x = added(x, gate_q, self._listened_by_frame(y, cond, mask), cond)
        return added(x, gate_ff, self.ff(rms_modulated(x, shift, scale, cond)), cond)

    def _listened_by_frame(self, x: Tensor, cond: Conditioning, mask: Tensor | None) -> Tensor:
        """What the tokens x [B, S, D] take from the words as each frame's level modulates them.

        Frames that share a level hear the same words. Keys that follow the level are made in each
        step: of all levels of a run they would take more room than the weights.
        """
        assert cond.prompt is not None
        groups = cond.prompt.shape[1]
        shift, scale = modulation(
            self.prompt_scale_shift_table, cond.prompt
        )  # two of [B, G, 1, width], G groups of tokens: the frames, or all that share a level
        words = cond.words.unsqueeze(1).float() * (1 + scale) + shift  # [B, G, L, text width]
        k, v = self.attn2.key_value(words.flatten(0, 1).to(x.dtype))  # two of [B G, H, L, E]
        asked = x.unflatten(1, (groups, -1)).flatten(0, 1)  # [B G, n, D]
        q, gates = self.attn2.query(asked)  # [B G, H, n, E], [B G, n, H]
        heard = sdpa(q, k, v, mask).transpose(1, 2).flatten(2)  # [B G, n, H E]
        return self.attn2.leave(heard, gates).reshape(*x.shape[:2], -1)


def mask_by_frame(cond: Conditioning, dtype: torch.dtype) -> Tensor | None:
    """The mask of the words for each frame, or all that share a level [B G, L], once for a text."""
    mask = mask_of(cond.text, dtype)
    if mask is None or cond.prompt is None:
        return None
    groups = cond.prompt.shape[1]
    return cond.text.memo.once(
        ("by frame", groups), lambda: mask.repeat_interleave(groups, 0), of=mask
    )
