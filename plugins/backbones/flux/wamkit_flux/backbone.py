"""A FLUX transformer between its two ends, as far as both generations agree.

    text [B, L, W]      --+
    z [B, C, T, h, w]   --+--embed--> x [B, L + S, D] --blocks--> x --unembed--> velocity

FLUX predicts noise - data, which is wamkit's velocity as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs

from wamkit.engine.attention import sdpa
from wamkit.engine.layers import constant, modulated
from wamkit.errors import WamkitError
from wamkit.interfaces.text import text_level
from wamkit.interfaces.types import Frames, Memo, Segment, Text, base

from .blocks import Conditioning, lanes_of
from .stack import FluxStack, Turn

if TYPE_CHECKING:
    from . import Flux1, Flux2


class LastNorm(nn.Module):
    """The norm before the way out, scaled and shifted by the noise level, scale first."""

    def __init__(self, width: int, *, bias: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width, bias=bias)

    def table(self, level: Tensor) -> Tensor:
        """level [B, T, D] to scale and shift [B, T, 2 D] float32."""
        return self.linear(F.silu(level).to(self.linear.weight.dtype)).float()

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """x [B, T, n, D], and scale and shift [B, T, 2 D], to [B, T, n, D]."""
        scale, shift = table.unsqueeze(2).chunk(2, -1)  # [B, T, 1, D]
        return modulated(x, shift, scale)


class FluxBackbone(FluxStack):
    """`VideoBackbone` of either generation; every frame has a noise level of its own.

    Frames of role `context` are reference images: the k-th stands at `reference` * (k + 1) on the
    first axis of positions, all other pictures stand at 0. Their times are not looked at. A frame
    that holds numbers stands on the other side, by its time t at -`reference` * (t + 1).
    """

    attend = staticmethod(sdpa)
    reference: ClassVar[int]
    x_embedder: nn.Linear
    context_embedder: nn.Linear
    norm_out: LastNorm
    proj_out: nn.Linear

    def __init__(self, config: Flux1 | Flux2) -> None:
        super().__init__()
        self.config, self.traits = config, config.traits

    def embed(
        self, video: Frames, text: Text | None
    ) -> tuple[Tensor, tuple[Segment, ...], Conditioning]:
        """Words, then tokens in the order of frames, rows and columns.

        Raises WamkitError for guide channels, and for a pooled vector that is missing or not
        wanted.
        """
        if video.guide is not None:
            raise WamkitError(
                f"found {video.guide.shape[1]} guide channels; {self.config.name} takes none",
                "leave out Frames(guide=...); references are frames of role context",
            )
        tokens, shape = self._frames(video)
        segments = video.segments(shape[1] * shape[2])
        turn = video.memo.once(
            (id(self), "turn"), lambda: self._turn(self._places(video, shape)), of=video.times
        )
        if text is None or not text.tokens.shape[1]:
            lanes = [(video.sigma, video.ladder)]
            cond = self._conditioning(lanes, text, shape, turn, video.memo)
            return tokens, segments, cond
        words, of = text.memo.once((id(self), "words"), lambda: self._words(text), of=text.tokens)
        segments = (Segment("text", words.shape[1], text.mask), *segments)
        turn, _ = video.memo.once((id(self), "both", id(turn)), partial(_in_a_row, of, turn), of=of)
        sigma, rung = text_level(text, video)
        lanes = [(sigma, Rungs.row([(rung, 1)], sigma)), (video.sigma, video.ladder)]
        cond = self._conditioning(lanes, text, shape, turn, video.memo)
        return torch.cat([words, tokens], 1), segments, cond

    def unembed(self, x: Tensor, cond: Conditioning) -> Tensor:
        table = self.out(cond.level[-1]) if cond.out is None else cond.out
        y = self.proj_out(self.norm_out(lanes_of(x, cond)[-1], table))
        y = y.unflatten(2, cond.shape[1:]).unflatten(-1, (-1, *self.traits.patch[1:]))
        return y.permute(0, 4, 1, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4)

    def out(self, level: Tensor) -> Tensor:
        return self.norm_out.table(level)

    def _frames(self, video: Frames) -> tuple[Tensor, tuple[int, int, int]]:
        """Tokens [B, S, D] of the frames; and frames, token rows, token columns."""
        z = video.z
        for axis, size in zip((2, 4, 6), self.traits.patch, strict=True):
            z = z.unflatten(axis, (-1, size))  # at last [B, C, T, 1, rows, p, columns, p]
        z = z.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)  # [B, T, rows, columns, C * p * p]
        _, frames, rows, columns, _ = z.shape
        tokens = self.x_embedder(z.flatten(1, 3).to(self.x_embedder.weight.dtype))
        return tokens, (frames, rows, columns)

    def _words(self, text: Text) -> tuple[Tensor, Turn]:
        """Tokens [B, L, D] of the words, and their positions."""
        words = self.context_embedder(text.tokens.to(self.context_embedder.weight.dtype))
        count = torch.arange(words.shape[1], device=words.device, dtype=torch.float64)
        return words, self._turn(count.new_zeros(len(count), 3), count)

    def _conditioning(
        self,
        lanes: Sequence[tuple[Tensor, Rungs | None]],
        text: Text | None,
        shape: tuple[int, int, int],
        turn: Turn,
        memo: Memo,
    ) -> Conditioning:
        name, wanted = self.config.name, self.traits.extra_width
        found = 0 if text is None or text.extra is None else text.extra.shape[-1]
        if found != wanted:
            raise WamkitError(
                f"found a pooled vector of width {found}; this variant of {name} takes width "
                f"{wanted} (0 is none)",
                "give Text(extra=...), the pooled CLIP vector [B, 1, width] of the words, in every "
                "pass, cached words or not"
                if wanted
                else "leave out Text(extra=...)",
            )
        return super()._conditioning(lanes, text, shape, turn, memo)

    def _places(self, video: Frames, shape: tuple[int, int, int]) -> Tensor:
        """Image, row and column of every token [S, 3] float64."""
        device, images = video.z.device, [0] * len(video.roles)
        for k, i in enumerate(video.where("context")):
            images[i] = self.reference * (k + 1)
        numbers = tuple([base(role) not in ("context", "target") for role in video.roles])
        slots = constant(numbers, torch.bool, device) * (video.times.to(device) + 1)
        axes = [constant(tuple(images), torch.long, device) - self.reference * slots]
        axes += [torch.arange(size, device=device) for size in shape[1:]]
        grid = torch.meshgrid(*(axis.double() for axis in axes), indexing="ij")
        return torch.stack([place.flatten() for place in grid], -1)


def _in_a_row(words: Turn, frames: Turn) -> tuple[Turn, Turn]:
    """Positions of words and frames; and those of the frames, by whose identity they are kept."""
    cos, sin = (torch.cat(pair) for pair in zip(words, frames, strict=True))
    return (cos, sin), frames
