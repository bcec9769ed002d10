"""A prompt as the network reads it. Letters as in `wamkit.interfaces.types`."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ALIGNED = 8
"""Elements between the rows of a mask that attention on CUDA takes as it is: others it copies at
every call (PyTorch, `aten/src/ATen/native/transformers/attention.cpp`, `preprocess_mask`)."""


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A mask [B, S], bool or additive, in the form that is added to attention scores.

    0 where attention may look, -inf where not. On CUDA its rows begin at multiples of ALIGNED.
    """
    if mask is None:
        return None
    if mask.is_floating_point():
        weights = mask.to(dtype)
    else:
        weights = torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, float("-inf"))
    length = mask.shape[-1]
    if not mask.is_cuda or length % ALIGNED == 0:
        return weights
    return F.pad(weights, (0, -length % ALIGNED))[:, :length]


@dataclass(frozen=True)
class Text:
    """Embeddings of a prompt, and what some networks want besides.

    The two caches belong to the engine. What it puts into `prompt_cache` follows from prompt and
    weights alone, and is kept by a policy for as long as it gets the prompt; `chunk_cache` is for
    what holds for one chunk.
    """

    tokens: Tensor  # [B, L, width]
    valid: Tensor | None = None  # [B, L] bool, True where attention may look; None for everywhere
    cond_embeds: Tensor | None = None  # [B, L', cond_embeds_width] image tokens or pooled text
    repeats: Tensor | None = None  # [B, L] how many equal tokens each stands for; None for one
    suffix: Tensor | None = None  # [B, L', width] tokens behind the prompt, such as the state
    follows: bool = False  # whether a stream of it has the level of targets (Traits.text_level)
    prompt_cache: dict[Any, Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    chunk_cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def mask(self) -> Tensor | None:
        """What attention hides or weighs of `tokens`: None, bool [B, L], or float32 to add.

        A key that stands for n equal ones counts as n of them when log n is added to its score:
        sum over n of exp(s) is exp(s + log n).
        """
        if self.repeats is None:
            return self.valid
        weight = self.repeats.float().log()
        return weight if self.valid is None else weight.masked_fill(~self.valid, float("-inf"))

    def attention_mask(self, dtype: torch.dtype) -> Tensor | None:
        """`mask` as `additive_mask` makes it."""
        return additive_mask(self.mask, dtype)

    @cached_property
    def whole(self) -> Text:
        """One row of tokens: those of the suffix stand behind the last real one of each sample.

        Not behind the padding: a token stands where it would stand if its sample were alone.
        """
        if self.suffix is None:
            return self
        token, count = self.suffix.to(self.tokens.dtype), self.suffix.shape[1]
        if self.valid is None:
            repeats = self.repeats
            if repeats is not None:
                repeats = torch.cat([repeats, repeats.new_ones(token.shape[:2])], 1)
            whole = torch.cat([self.tokens, token], 1)
            return Text(whole, None, self.cond_embeds, repeats, follows=self.follows)
        places = torch.arange(self.valid.shape[1] + count, device=token.device)
        ends = (self.valid * (places[:-count] + 1)).amax(1)  # [B] tokens up to the last real one
        index = ends[:, None] + places[:count]  # [B, L']
        where = index[..., None].expand(-1, -1, token.shape[2])
        tokens = F.pad(self.tokens, (0, 0, 0, count)).scatter(1, where, token)
        valid, repeats = (
            None if x is None else F.pad(x, (0, count)).scatter(1, index, 1)
            for x in (self.valid, self.repeats)
        )
        return Text(tokens, valid, self.cond_embeds, repeats, follows=self.follows)

    @property
    def length(self) -> int:
        """Tokens in all, those of the suffix included."""
        return self.tokens.shape[1] + (0 if self.suffix is None else self.suffix.shape[1])

    def with_fresh_chunk_cache(self, **changes: Any) -> Text:
        """The same prompt for another chunk; `changes` leave its tokens."""
        return replace(self, **changes).with_prompt_cache(self.prompt_cache)

    def with_prompt_cache(self, cache: dict[Any, Any]) -> Text:
        """The same prompt; what follows from it is kept in `cache`."""
        new = replace(self)
        object.__setattr__(new, "prompt_cache", cache)
        return new

    def without_caches(self) -> Text:
        """The same prompt, of which nothing is computed yet."""
        return replace(self)

    def append(self, token: Tensor) -> Text:
        """This text with more tokens [B, L', width], all real, as its suffix."""
        token = token.to(self.tokens.dtype)
        suffix = token if self.suffix is None else torch.cat([self.suffix, token], 1)
        return self.with_fresh_chunk_cache(suffix=suffix)

    def pick(self, index: Tensor) -> Text:
        """The samples `index` [B'], in that order; a sample may come more than once."""

        def rows(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[index]

        valid, cond_embeds, repeats, suffix = map(
            rows, (self.valid, self.cond_embeds, self.repeats, self.suffix)
        )
        return Text(self.tokens[index], valid, cond_embeds, repeats, suffix, self.follows)
