"""The backbone interface: pure functions without state.

    embed_text(text)             -> TextCond      once per prompt
    block.text_kv(text_cond)     -> TextKV        once per prompt
    embed_sigma(sigmas [R])      -> SigmaCond     once per schedule
    block.modulation(sigma)      -> [R, ...]      once per schedule; rows are gathered every step
    embed_positions(positions)   -> rotary        once per layout of tokens
    patchify(clip)               -> tokens        every step
    block.pre_attention(...)     -> q, k, v       every step
    block.post_attention(...)    -> tokens        every step
    final_layer(...)             -> velocity      every step

A function reads its arguments and its weights, and keeps nothing between calls: the engine decides
how often it runs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..config.traits import Traits
from ..engine.attention import QKV, Attend, attention
from ..engine.conditioning import PositionCond, SigmaCond, TextCond, TextKV
from ..engine.levels import LevelTable
from ..engine.text import Text
from ..errors import WamkitError


class Block(Protocol):
    """A transformer block split at its self-attention; it is stateless.

    `modulation` and `text_kv` given to the later methods are the outputs of the first two, rows
    chosen for its tokens by the engine.
    """

    def modulation(self, sigma: SigmaCond) -> Tensor | None:
        """Shifts, scales and gates of R noise levels.

        Args:
            sigma: Output of the stack's `embed_sigma` for the levels.

        Returns:
            [R, ...], of any shape behind R; None if levels do not matter. Blocks that share one
            modulation return the very same tensor: it is stored once.
        """

    def text_kv(self, text: TextCond) -> TextKV | None:
        """Cross-attention keys and values of the tokens in `text`; None without any."""

    def pre_attention(
        self, x: Tensor, modulation: Any, rotary: PositionCond
    ) -> tuple[QKV, tuple[Any, ...]]:
        """Queries, keys and values.

        Args:
            x: Tokens [B, S, D].
            modulation: Rows [B or 1, G, ...], one for each of G groups of S / G tokens.
            rotary: Output of the stack's `embed_positions` for the tokens.

        Returns:
            q [B, H, S, E], k and v [B, K, S, E], and the tensors that `post_attention` needs.
        """

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Any, text_kv: TextKV | None
    ) -> Tensor:
        """Attention output [B, S, H * E] to the next tokens [B, S, D]."""


class Clip(NamedTuple):
    """Frames in the form that a backbone takes."""

    latents: Tensor  # [B, C, T, h, w]
    levels: LevelTable  # noise levels of the frames that the network is given
    is_given: tuple[bool, ...]  # T: whether a frame is known and conditions the others
    is_reference: tuple[bool, ...]  # T: whether it is an image observed before the others
    is_vector: tuple[bool, ...]  # T: whether a frame holds values of a vector instead of an image
    grid: tuple[int, int, int]  # frames, token rows, token columns
    cond_latents: Tensor | None = None  # [B, G, T, h, w] channels for backbones that want them
    positions: PositionCond = None  # what `embed_grid` made
    modulation: Any = None  # rows [B or 1, G, ...] of `entry_modulation`; G is T or 1
    ranks: tuple[int, ...] = ()  # T: how many frames of the same role came before

    @property
    def sigma(self) -> Tensor:
        """The noise level of each frame [B or 1, T or 1] float32; 0 is data."""
        return self.levels.sigmas[self.levels.index]


class Stack(nn.Module, ABC):
    """Blocks and the embedders of their conditioning: an expert, or the middle of a backbone."""

    text_is_per_token: ClassVar[bool] = True
    """Whether `embed_text` embeds each token by itself: then tokens can be added to a prompt."""
    reads_pooled: ClassVar[bool] = False
    """Whether `embed_sigma` reads a pooled vector of the prompt (`Text.cond_embeds`)."""

    blocks: Any
    """The `Block`s, input side first; None at layers where these tokens rest."""

    @property
    def text_stack(self) -> Stack:
        """The stack whose embedding of a prompt its blocks read, so that it is computed once."""
        return self

    def embed_text(self, text: Text) -> TextCond | None:
        """Embed a prompt for the blocks or the text stream; None if they take none.

        The mask is `text.attention_mask(dtype)`, with the dtype of the keys. `text.cond_embeds` is
        not read here.
        """
        return None

    def embed_image(self, tokens: Tensor) -> Tensor | None:
        """Project image tokens [B, L', cond_embeds_width]; None if the blocks take none."""
        return None

    @abstractmethod
    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> SigmaCond:
        """Embed noise levels for the blocks and the final layer.

        A backbone with `traits.views` takes a third argument, `view`: [R] int64, the camera view
        whose tokens have the level; None for the first.

        Args:
            sigmas: [R] float32 in [0, 1], 0 is data.
            pooled: [R or 1, width], where `reads_pooled` is set and the prompt has one.

        Returns:
            A NamedTuple of tensors [R, ...].
        """

    def embed_level(self, sigmas: Tensor) -> Tensor | None:
        """The vectors [R, D] float32 that the blocks' modulation of levels [R] is projected from.

        Before the last nonlinearity; None where blocks have no such vector
        (`Traits.level_vector`).
        """
        return None

    def embed_positions(self, positions: Tensor) -> PositionCond:
        """Embed positions of tokens for the blocks, such as RoPE tables.

        Args:
            positions: Time, row and column of each token [S, 3] float64, in latent frames and
                tokens, or [B, S, 3] where samples differ. Fractions, and -1 off the grid, are
                allowed. `Backbone.positions` may give more axes; those that are missing are 0.
        """
        return None

    def embed_line(self, places: Tensor) -> PositionCond:
        """Embed places on a line that turns the whole of a head, for tokens outside of any clip.

        Only of stacks whose `Traits.line_positions` is set.

        Args:
            places: [S] float64.
        """
        raise NotImplementedError


class Backbone(Stack):
    """A diffusion transformer over latent frames: a stack and its two ends.

    Noise levels are sigma in [0, 1] with x_sigma = (1 - sigma) x + sigma noise, and the velocity is
    noise - x. A backbone that was trained on another path converts in `embed_sigma`, `patchify` and
    `final_layer`.
    """

    traits: Traits
    attend: Attend = staticmethod(attention)
    reference_sigma: float = 0.0
    """Noise level in [0, 1] that the network reads for clean given frames (`Frames.is_given`)."""

    text_blocks: Any
    """Blocks of the text tokens, only where text is a stream (`traits.text`). A block that text and
    frames share appears in both."""

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        """Positions of the tokens of a clip on this family's axes [S, 3 or more] float64.

        By default time, row and column, frame by frame and row by row.

        Args:
            times: [T] float64, in latent frames.
            clip: The frames; only host values and shapes may be read.
        """
        return grid_positions(times, *clip.grid[1:])

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        """Positions of the text tokens of a stream [L, 3 or more], or [B, L, ...]; float64."""
        raise NotImplementedError

    def embed_grid(self, positions: Tensor, grid: tuple[int, int, int]) -> PositionCond:
        """`embed_positions` of a clip's tokens, and other tensors of the layout alone."""
        return self.embed_positions(positions)

    def entry_modulation(self, sigma: SigmaCond) -> Tensor | None:
        """Modulation of noise levels for `patchify` [R, ...]; None for none."""
        return None

    @abstractmethod
    def patchify(self, clip: Clip) -> Tensor:
        """Latents to tokens [B, S, D], frame by frame, row by row."""

    def final_modulation(self, sigma: SigmaCond) -> Tensor | None:
        """Modulation of noise levels for `final_layer` [R, ...]."""
        return None

    def final_norm(self, x: Tensor, modulation: Any) -> Tensor:
        """The modulated norm [B, S, D] that final tokens pass before they are projected.

        Only where `traits.final_norm`; `modulation` are rows of `final_modulation`.
        """
        raise NotImplementedError(f"{type(self).__name__} has no norm apart from its final layer")

    def final_layer(self, x: Tensor, modulation: Any, clip: Clip) -> Tensor:
        """Final tokens of the clip [B, S, D] to velocity d x / d sigma [B, C, T, h, w].

        Raises:
            WamkitError: The backbone has no velocity to predict (`traits.imagines`).
        """
        raise WamkitError(
            "this backbone only encodes observations; it predicts no velocity",
            "choose a backbone that was trained to denoise, or read this one's layers",
        )


def grid_positions(times: Tensor, rows: int, columns: int) -> Tensor:
    """Time, row and column of every token of a clip [S, 3] float64."""
    sides = (torch.arange(n, device=times.device).double() for n in (rows, columns))
    return torch.stack(torch.meshgrid(times.double(), *sides, indexing="ij"), -1).flatten(0, 2)


class WrappedBackbone(Backbone):
    """A wrapper that overrides some functions of a backbone and shares its weights."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.__dict__["inner"] = backbone  # no submodule: the weights belong to the policy
        self.traits, self.attend = backbone.traits, backbone.attend
        self.reference_sigma = backbone.reference_sigma
        self.text_is_per_token = backbone.text_is_per_token  # type: ignore[misc]
        self.reads_pooled = backbone.reads_pooled  # type: ignore[misc]

    inner: Backbone

    @property
    def blocks(self) -> Sequence[Any]:
        """As the inner backbone's."""
        return self.inner.blocks

    @property
    def text_blocks(self) -> Sequence[Any]:
        """As the inner backbone's."""
        return self.inner.text_blocks

    def embed_text(self, text: Text) -> TextCond | None:
        """As the inner backbone's."""
        return self.inner.embed_text(text)

    def embed_image(self, tokens: Tensor) -> Tensor | None:
        """As the inner backbone's."""
        return self.inner.embed_image(tokens)

    def embed_sigma(
        self, sigmas: Tensor, pooled: Tensor | None = None, **view: Tensor
    ) -> SigmaCond:
        """As the inner backbone's."""
        return self.inner.embed_sigma(sigmas, pooled, **view)

    def embed_positions(self, positions: Tensor) -> PositionCond:
        """As the inner backbone's."""
        return self.inner.embed_positions(positions)

    def positions(self, times: Tensor, clip: Clip) -> Tensor:
        """As the inner backbone's."""
        return self.inner.positions(times, clip)

    def text_positions(self, text: Text, grid: tuple[int, int, int]) -> Tensor:
        """As the inner backbone's."""
        return self.inner.text_positions(text, grid)

    def embed_line(self, places: Tensor) -> PositionCond:
        """As the inner backbone's."""
        return self.inner.embed_line(places)

    def embed_grid(self, positions: Tensor, grid: tuple[int, int, int]) -> PositionCond:
        """As the inner backbone's."""
        return self.inner.embed_grid(positions, grid)

    def entry_modulation(self, sigma: SigmaCond) -> Tensor | None:
        """As the inner backbone's."""
        return self.inner.entry_modulation(sigma)

    def patchify(self, clip: Clip) -> Tensor:
        """As the inner backbone's."""
        return self.inner.patchify(clip)

    def final_modulation(self, sigma: SigmaCond) -> Tensor | None:
        """As the inner backbone's."""
        return self.inner.final_modulation(sigma)

    def final_norm(self, x: Tensor, modulation: Any) -> Tensor:
        """As the inner backbone's."""
        return self.inner.final_norm(x, modulation)

    def final_layer(self, x: Tensor, modulation: Any, clip: Clip) -> Tensor:
        """As the inner backbone's."""
        return self.inner.final_layer(x, modulation, clip)
