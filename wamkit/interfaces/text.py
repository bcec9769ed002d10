"""An instruction as a network reads it. Letters as in `wamkit.interfaces.types`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ..acceleration.fused_linear import alone
from ..acceleration.memo import Memo, Rung
from ..engine.kv_cache import KV
from ..engine.layers import additive

if TYPE_CHECKING:
    from .types import Frames


@dataclass(frozen=True)
class Text:
    """An instruction as embeddings, and what some backbones want beside it.

    `memo` is for what stays the same over a chunk; what follows from the words and from weights
    alone belongs into `lasting`, which a policy keeps for as long as it gets the instruction.
    """

    tokens: Tensor  # [B, L, width]
    valid: Tensor | None = None  # [B, L] bool, True where attention may look; None for everywhere
    extra: Tensor | None = None  # [B, L', extra width] what the backbone's conditioner made
    copies: Tensor | None = None  # [B, L] how many equal tokens each stands for; None for one each
    follows: bool = False  # whether its tokens have the level of the targets (Traits.text_level)
    beside: Any = None  # frames of the pass in a stream of their own, among which its targets are
    memo: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)
    lasting: Memo = field(default_factory=Memo, init=False, repr=False, compare=False)

    @cached_property
    def mask(self) -> Tensor | None:
        """What attention is to hide or to weigh: None, bool [B, L], or float32 to add to scores.

        A key that stands for n equal ones counts as n of them when log n is added to its score:
        sum over n of exp(s) is exp(s + log n).
        """
        if self.copies is None:
            return self.valid
        weight = self.copies.float().log()
        return weight if self.valid is None else weight.masked_fill(~self.valid, float("-inf"))

    def again(self, **changes: Any) -> Text:
        """The same words for another chunk, with what lasts; `changes` leave the tokens."""
        new = replace(self, **changes)
        object.__setattr__(new, "lasting", self.lasting)
        return new

    def following(self, follows: bool) -> Text:
        """The same words, with or without the level of the target frames."""
        return self._in_this_pass(follows=follows)

    def with_beside(self, frames: Any) -> Text:
        """The same words in a pass with these frames beside the words' own stream."""
        return self._in_this_pass(beside=frames)

    def _in_this_pass(self, **changes: Any) -> Text:
        """With `changes`, and with all that is kept of the words."""
        new = self.again(**changes)
        object.__setattr__(new, "memo", self.memo)
        return new

    def pick(self, index: Tensor) -> Text:
        """The samples `index` [B'], in that order; a sample may come more than once."""

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index]

        valid, extra, copies = rows(self.valid), rows(self.extra), rows(self.copies)
        return Text(self.tokens[index], valid, extra, copies, self.follows)

    def append(self, token: Tensor) -> Text:
        """This text with more tokens [B, L', width], all real, behind the last of each sample.

        Not behind the padding: a token stands where it would stand if its sample were alone.
        """
        token, count = token.to(self.tokens.dtype), token.shape[1]
        if self.valid is None:
            tokens = torch.cat([self.tokens, token], 1)
            copies = self.copies
            if copies is not None:
                copies = torch.cat([copies, copies.new_ones(token.shape[:2])], 1)
            return Text(tokens, None, self.extra, copies, self.follows)
        places = torch.arange(self.valid.shape[1] + count, device=token.device)
        ends = (self.valid * (places[:-count] + 1)).amax(1)  # [B] tokens up to the last real one
        index = ends[:, None] + places[:count]  # [B, L']
        where = index[..., None].expand(-1, -1, token.shape[2])
        tokens = F.pad(self.tokens, (0, 0, 0, count)).scatter(1, where, token)
        valid, copies = (
            None if x is None else F.pad(x, (0, count)).scatter(1, index, 1)
            for x in (self.valid, self.copies)
        )
        return Text(tokens, valid, self.extra, copies, self.follows)


def text_level(text: Text | None, video: Frames) -> tuple[Tensor, Rung | None]:
    """The noise level [B, 1] of words in the stream of `video`, and which level of a run it is.

    That of the first target frames of the pass if the words follow them (`Text.follows`); else,
    and where the pass has none, 0.
    """
    beside = None if text is None else text.beside
    frames: Frames = video if beside is None else beside
    if text is None or not text.follows or not frames.targets:
        sigma = torch.zeros_like(video.sigma[:, :1])
        return sigma, Rung.fixed(0.0, sigma)
    role = frames.targets[0]
    return frames.sigma.narrow(1, frames.roles.index(role), 1), frames.rung_of(role)


def mask_of(text: Text, dtype: torch.dtype) -> Tensor | None:
    """The mask of the words [B, L] as `additive` makes it, once for a text."""
    return text.lasting.once(("additive", dtype), lambda: additive(text.mask, dtype))


class Listener(Protocol):
    """An attention that looks at words."""

    def key_value(self, words: Tensor) -> tuple[Tensor, Tensor]:
        """[B, L, D] to keys and values, two of [B, K, L, E]."""


def told(text: Text, listener: Listener, words: Tensor) -> KV:
    """Keys and values that `listener` makes of `words`, and their mask: once for a text."""

    def make() -> KV:
        k, v = alone(*listener.key_value(words))
        return KV(k, v, mask_of(text, k.dtype))

    return text.lasting.once((id(listener), "told"), make, of=words)
