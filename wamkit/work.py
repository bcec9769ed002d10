"""How much a pass of a network computes, by closed formulas: what measured counts are held to.

A multiplication and an addition are two operations. Counted are the projections, the feed-forward
and the attention of blocks, and both ends of a backbone. Norms, modulation, and embedders of noise
levels, numbers and words are left out.

Letters: D width of a token, F of the feed-forward between its layers, I numbers of all query heads,
K of all key heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from .visibility import Visibility

if TYPE_CHECKING:
    from .parts import Traits


@dataclass(frozen=True)
class Pass:
    """One pass over one sample, on paper: how many tokens of each role there are."""

    frames: Mapping[str, int]
    """role -> tokens that pass the backbone, with the words where they are in its stream."""
    numbers: Mapping[str, int]
    """role -> tokens that the action head adds."""
    known: Mapping[str, int] = field(default_factory=dict)
    """role -> tokens of earlier passes that are looked at."""
    sees: Visibility = field(default_factory=dict)
    words: int = 0
    """Words of the instruction, the state included where it is one of them."""
    samples: int = 1
    prefill: bool = False
    """True if the pass is there for its keys alone, so that the last layer stops at them."""
    new_words: bool = False
    """True if keys of the words are made in this pass, and were not kept."""
    new_frames: bool = False
    """True if what a head reads of the backbone has changed since it last looked."""

    def seen(self, role: str) -> int:
        """Tokens that one token of `role` attends to."""
        row = self.sees.get(role, ())
        present = {*self.known, *self.frames, *self.numbers} & set(row)
        return sum(
            self.frames.get(other, 0) + self.numbers.get(other, 0) or self.known[other]
            for other in present
        )

    def pairs(self, tokens: Mapping[str, int]) -> int:
        """Pairs of a query among `tokens` and a key that it sees."""
        return sum(count * self.seen(role) for role, count in tokens.items())

    def shown(self, roles: Collection[str]) -> int:
        """Tokens of the backbone, passing or known, that some of `roles` see."""
        row = {other for role in roles for other in self.sees.get(role, ())}
        backbone = {**self.known, **self.frames}
        return sum(n for role, n in backbone.items() if role in row and role not in self.numbers)


@dataclass(frozen=True)
class Layer:
    """The sizes of a transformer block, and what its parts compute."""

    width: int  # D
    feed_forward: int  # F
    inner: int  # I
    keys: int  # K
    gated: bool = False  # a third layer in the feed-forward, whose outputs multiply the first's
    cross: bool = False  # words are read by cross-attention

    @property
    def showing(self) -> int:
        """Queries, keys and values of a token."""
        return 2 * self.width * (self.inner + 2 * self.keys)

    def token(self, words: int) -> int:
        """All that a token computes by itself, and what it finds among the words."""
        out, layers = 2 * self.inner * self.width, 3 if self.gated else 2
        words_read = 4 * self.width * self.inner + 4 * self.inner * words if self.cross else 0
        return self.showing + out + layers * 2 * self.width * self.feed_forward + words_read

    def telling(self, words: int) -> int:
        """Keys and values of words."""
        return 4 * self.width * self.keys * words if self.cross else 0

    def all(self, tokens: Mapping[str, int], pass_: Pass) -> int:
        """One block over `tokens`, with what they attend to, and new words."""
        own = sum(tokens.values()) * self.token(pass_.words) + 4 * self.inner * pass_.pairs(tokens)
        return own + (self.telling(pass_.words) if pass_.new_words else 0)


def layer_of(traits: Traits, width: int = 0, feed_forward: int = 0) -> Layer:
    """A backbone's block, or a narrower copy of it."""
    return Layer(
        width or traits.width,
        feed_forward or traits.feed_forward or 4 * traits.width,
        traits.heads * traits.head_size,
        traits.key_heads * traits.head_size,
        traits.gated,
        traits.text == "cross",
    )


def ends_of(traits: Traits, *, prefill: bool) -> int:
    """From a patch, and what guides it, to a token; and back to a velocity, if one is wanted."""
    out = traits.latent_channels if traits.imagines and not prefill else 0
    channels = traits.latent_channels + traits.guide_channels + out
    return 2 * prod(traits.patch) * channels * traits.width
