"""One block of Qwen-Image's transformer, opened at its attention, and what it is conditioned on.

    words  --norm, shift, scale--> q k v --+           +--> * gate + --> feed-forward --> * gate +
                                           | attention |
    images --norm, shift, scale--> q k v --+           +--> * gate + --> feed-forward --> * gate +

Words and images have weights of their own for all but the attention. Shift, scale and gate belong
to a frame, or to all words, and are computed in float32, as are norms and rotary positions;
residuals are added in float32. Letters as in `wamkit.interfaces.types`; G groups of n tokens share
a noise level: T frames, or one group of L words; a token that belongs to no frame is one by itself,
and takes the weights of images. The width D need not be H * E: an action expert is narrower than
what it attends with, and no words pass it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import own_rows

from wamkit.acceleration.fused_linear import projected
from wamkit.engine.attention import QKV
from wamkit.engine.layers import FeedForward, RMSNorm, modulated, rotate_pairs, split_heads


@dataclass(frozen=True)
class Level:
    """Noise levels of words and frames, embedded, or what was made of them already."""

    text: Tensor | None = None  # [B, 1, D] SiLU of the embedded level of the words, if any pass
    frames: Tensor | None = None  # [B, T, D] the same of each frame
    text_rows: Tensor | None = None  # [B, 1, blocks, 6 D], as `wamkit.acceleration.memo.stacked`
    rows: Tensor | None = None  # [B, G, blocks, 6 D] the same of each frame
    owner: Tensor | None = None  # [T] whose row is whose
    out: Tensor | None = None  # [B, T, 2 D] float32 of the last norm


@dataclass(frozen=True)
class Conditioning:
    """What the blocks need besides tokens; nobody else looks inside."""

    words: int  # L, the first tokens of the stream; 0 if there are none or they are cached
    level: Level  # of words and frames
    cos: Tensor  # [S, E / 2] float32 rotary positions of words and frames
    sin: Tensor  # [S, E / 2]
    shape: tuple[int, int, int]  # frames, token rows, token columns; S, 1, 1 for tokens of no frame


IMAGES, WORDS = ("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")
"""Projections to queries, keys and values."""


class Attention(nn.Module):
    """Projections under diffusers' names: `to_*` for images, `add_*` for words if any pass."""

    together = (IMAGES, WORDS)

    def __init__(self, width: int, heads: int, head_size: int, *, words: bool) -> None:
        super().__init__()
        inner = heads * head_size
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])
        self.norm_q, self.norm_k = RMSNorm(head_size), RMSNorm(head_size)
        if words:
            self.add_q_proj, self.add_k_proj, self.add_v_proj = (
                nn.Linear(width, inner) for _ in range(3)
            )
            self.to_add_out = nn.Linear(inner, width)
            self.norm_added_q, self.norm_added_k = RMSNorm(head_size), RMSNorm(head_size)


class Side(NamedTuple):
    """The weights of a block that one kind of token goes through."""

    names: tuple[str, str, str]
    norm_query: RMSNorm
    norm_key: RMSNorm
    out: nn.Linear
    feed_forward: FeedForward


class QwenImageBlock(nn.Module):
    """Attention over images, and words if any pass, together, then a feed-forward for each."""

    def __init__(
        self, width: int, heads: int, head_size: int, feed_forward: int, *, words: bool
    ) -> None:
        super().__init__()
        self.head_size = head_size
        self.img_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
        self.attn = Attention(width, heads, head_size, words=words)
        self.img_mlp = FeedForward(width, feed_forward)
        if words:
            self.txt_mod = nn.ModuleList([nn.Identity(), nn.Linear(width, 6 * width)])
            self.txt_mlp = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        shown, rest = [], []
        tables = self._modulation(cond.level)
        for (side, tokens), table in zip(self._sides(x, cond), tables, strict=True):
            six = table.unsqueeze(2).chunk(6, -1)  # six of [B, G, 1, D]
            y = modulated(tokens, six[0], six[1]).flatten(1, 2)
            rows = projected(self.attn, y, *side.names)
            q, k, v = (split_heads(row, self.head_size) for row in rows)
            shown.append(QKV(side.norm_query(q), side.norm_key(k), v))
            rest.append((tokens, *six[2:]))
        q, k, v = (torch.cat(parts, 2) for parts in zip(*shown, strict=True))
        turn = cond.cos, cond.sin
        return QKV(rotate_pairs(q, *turn), rotate_pairs(k, *turn), v), rest

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        done = []
        for (side, heard), kept in zip(self._sides(attended, cond), rest, strict=True):
            tokens, gate, shift, scale, gate_out = kept
            tokens = added(tokens, gate, side.out(heard))
            y = side.feed_forward(modulated(tokens, shift, scale))
            done.append(added(tokens, gate_out, y).flatten(1, 2))
        return torch.cat(done, 1)

    def modulation(self, level: Tensor, *, words: bool) -> Tensor:
        """Shifts, scales and gates [B, G, 6 D] float32 of levels [B, G, D] of words or frames."""
        return (self.txt_mod if words else self.img_mod)[1](level).float()

    def _modulation(self, level: Level) -> list[Tensor]:
        """Those of the words, if any pass, then those of the frames."""
        if level.rows is not None:
            text = [] if level.text_rows is None else [own_rows(self, level.text_rows, None)]
            return [*text, own_rows(self, level.rows, level.owner)]
        assert level.frames is not None
        text = [] if level.text is None else [self.modulation(level.text, words=True)]
        return [*text, self.modulation(level.frames, words=False)]

    def _sides(self, x: Tensor, cond: Conditioning) -> Iterator[tuple[Side, Tensor]]:
        """Words if there are any, then frames: weights, tokens [B, G, n, D]."""
        attn = self.attn
        if cond.words:
            words = Side(
                WORDS,
                attn.norm_added_q,
                attn.norm_added_k,
                attn.to_add_out,
                self.txt_mlp,
            )
            yield words, x[:, None, : cond.words]
        images = Side(
            IMAGES,
            attn.norm_q,
            attn.norm_k,
            attn.to_out[0],  # type: ignore[arg-type]
            self.img_mlp,
        )
        yield images, by_frame(x, cond)


def by_frame(x: Tensor, cond: Conditioning) -> Tensor:
    """The frames' tokens among [B, S, D], as [B, T, n, D]."""
    return x[:, cond.words :].unflatten(1, (cond.shape[0], -1))


def added(x: Tensor, gate: Tensor, y: Tensor) -> Tensor:
    """x + gate * y in float32, x and y [B, G, n, D], gate [B, G, 1, D]; the dtype of x out."""
    return (x.float() + gate * y).to(x.dtype)
