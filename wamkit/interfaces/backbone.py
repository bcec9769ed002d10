"""What a backbone promises: its blocks, opened at self-attention, and the two ends of the stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from ..acceleration.memo import Rungs
from ..config.parts import Traits
from ..config.visibility import Visibility, everyone
from ..engine.attention import Attend, Block, Stream, run
from ..engine.kv_cache import KVCache
from ..errors import WamkitError
from .types import Frames, Segment, Text


@runtime_checkable
class VideoBackbone(Protocol):
    """A diffusion transformer over latent frames, as an `nn.Module`.

    Noise levels come in as sigma in [0, 1] in float32, one a frame; a backbone that was trained on
    other letters converts inside `embed`. `cond` is opaque to everyone but its own blocks.
    """

    traits: Traits
    attend: Attend

    @property
    def blocks(self) -> Sequence[Block]:
        """The stack, input side first."""

    def embed(self, video: Frames, text: Text | None) -> tuple[Tensor, tuple[Segment, ...], Any]:
        """Frames to tokens [B, S, D], one segment for each run of a role, and the conditioning.

        Where text is in the stream (`traits.text`), it has a segment `text` of its own, and `text`
        is None when its keys are cached already, or holds no words beside the `Text.extra` that a
        variant wants in every pass. Elsewhere `text` is always given; a backbone whose
        `traits.text` is "none" leaves it to the action head.
        """

    def place(self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None) -> Any:
        """The conditioning of S tokens that belong to no frame, so that they pass the same blocks.

        `sigma` [B, S] float32 are noise levels in [0, 1], `at` [S, 3] float32 their times,
        rows and columns on the grid of video tokens, in the same units as `Frames.times` and as
        the places of tokens; fractions and numbers off the grid (-1) are allowed. A family without
        places in time looks at what it has. Where the blocks take one level a pass, it is the
        highest of a sample. `text` is for the words that blocks attend to by cross-attention.
        `rungs`, as `Frames.ladder`, is what is known of the levels at the start of a chunk, so that
        what follows from them is looked up (`wamkit.acceleration.memo.of_levels`) instead of
        computed.
        """

    def unembed(self, x: Tensor, cond: Any) -> Tensor:
        """Final tokens to velocity d x / d sigma [B, C, T, h, w] of the frames given to `embed`.

        Raises WamkitError if the backbone cannot imagine (`traits.imagines`).
        """


def stream_of(
    backbone: VideoBackbone,
    video: Frames,
    text: Text,
    cache: KVCache | None = None,
    *,
    words: bool = True,
) -> Stream:
    """Frames at the entrance of the backbone's stack.

    Where words are in the stream they come along, unless they are cached or `words` is False; at
    which noise level, the traits say (`Traits.text_level`).
    """
    if text.follows != backbone.traits.text_follows:
        text = text.following(backbone.traits.text_follows)
    cached = cache is not None and "text" in cache.roles
    leave_out = (cached or not words) and backbone.traits.text == "stream"
    given: Text | None = text
    if leave_out:
        given = Text(text.tokens[:, :0], extra=text.extra) if backbone.traits.extra_width else None
    x, segments, cond = backbone.embed(video, given)
    return Stream(backbone.blocks, x, segments, cond)


def denoise(
    backbone: VideoBackbone, frames: Frames, text: Text, sees: Visibility | None = None
) -> Tensor:
    """The velocity [B, C, T, h, w] that a backbone alone predicts for `frames`.

    `sees` says which role attends to which; by default everything sees everything, as in the
    backbone's own pretraining. Raises WamkitError if the backbone cannot imagine.
    """
    if not backbone.traits.imagines:
        raise WamkitError(
            "this backbone only shows what is seen; it has no velocity to predict",
            "choose a backbone that was trained to denoise, or read this one's layers",
        )
    # Copies have memos of their own: nothing that an earlier call left behind is reused.
    stream = stream_of(backbone, replace(frames), replace(text))
    table = sees if sees is not None else everyone(s.role for s in stream.segments)
    run([stream], table, attend=backbone.attend)
    return backbone.unembed(stream.x, stream.cond)
