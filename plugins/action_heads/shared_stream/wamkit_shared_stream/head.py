"""The action head `shared_stream`: numbers become tokens of the backbone, and come back.

    video tokens   ------+--blocks of the backbone--+------> frames
    [words] state a a a -+                          +------> actions

Source: LingBot-VA (`wan_va/modules/model.py` in github.com/robbyant/lingbot-va) and DreamZero
(`groot/vla/model/dreamzero/modules` in github.com/dreamzero0/dreamzero).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from wamkit.acceleration.memo import Rung, Rungs, of_level

from wamkit.config.parts import Sizes
from wamkit.engine.attention import Stream
from wamkit.engine.layers import latent_times, sinusoid
from wamkit.interfaces import ExpertHead, VideoBackbone
from wamkit.interfaces.types import MODALITIES, Piece, Scene, Segment

from .embedders import Decoder, Linear, NoisyEmbedder, Perceptron

if TYPE_CHECKING:
    from . import SharedStream


@dataclass
class Tokens(Stream):
    """A stream that knows which of its tokens are whose."""

    spans: Mapping[str, slice]  # part -> the tokens that tell its velocity


class SharedStreamHead(ExpertHead):
    """`ExpertHead` whose stream passes through the backbone's own blocks."""

    keep_float32 = ("norm",)

    def __init__(self, config: SharedStream, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, robots = sizes.traits.width, (config.embodiments, config.embodiment)
        deep = config.embedder == "mlp_sinusoid"
        for part in sizes.predicts:
            numbers = sizes.numbers(part)
            embedder = NoisyEmbedder if deep else Linear
            self.add_module(f"{part}_embedder", embedder(numbers, width, robots))
            self.add_module(f"{part}_decoder", Decoder(width, numbers, robots, deep=deep))
        if sizes.state and config.state == "token":
            self.state_embedder = (
                Perceptron(sizes.state, width, width, robots)
                if deep
                else Linear(sizes.state, width, robots)
            )
        self.text_embedder: nn.Linear | None = None
        if config.text == "stream":
            self.text_embedder = nn.Linear(sizes.traits.text_width, width)

    def stream(
        self, backbone: VideoBackbone, scene: Scene, known: Collection[str]
    ) -> Stream | None:
        pieces = [self._placed(p, scene) for p in scene.pieces(known) if self._reads(p)]
        words = self.text_embedder if "text" not in known else None
        if not pieces and words is None:
            return None
        x = [self._embedded(piece, scene) for piece in pieces]
        levels = [piece.sigma.expand(-1, piece.x.shape[1]) for piece in pieces]
        segments = [segment for piece in pieces for segment in piece.segments()]
        lengths = [piece.x.shape[1] for piece in pieces]
        if words is not None:
            text = scene.text
            told, clean = text.memo.once(
                (id(self), "words"), partial(_told, words, text.tokens), of=text.tokens
            )
            x.insert(0, told)
            levels.insert(0, clean)
            segments.insert(0, Segment("text", text.tokens.shape[1], text.mask))
            lengths.insert(0, text.tokens.shape[1])
        at, wave = self._places(scene, pieces, lengths)
        tokens = torch.cat(x, 1)
        if wave is not None:
            tokens = tokens + wave.to(tokens.dtype)
        sigma = torch.cat(levels, 1)
        rungs = Rungs.row([(piece.rung, piece.x.shape[1]) for piece in pieces], sigma)
        if words is not None and rungs is not None:
            rungs = Rungs(((Rung.fixed(0.0, levels[0]), lengths[0]), *rungs.parts), sigma)
        cond = backbone.place(sigma, at, scene.text, rungs)
        parts = [*(["text"] if words is not None else []), *(piece.part for piece in pieces)]
        return Tokens(backbone.blocks, tokens, tuple(segments), cond, _spans(parts, lengths))

    def _reads(self, piece: Piece) -> bool:
        return piece.part != "state" or self.config.state == "token"

    def _placed(self, piece: Piece, scene: Scene) -> Piece:
        """What comes of a chunk stands after it, unless the scene says where it stands."""
        if piece.part in ("state", "action") or scene.noisy(piece.part).times is not None:
            return piece
        return piece._replace(times=piece.times + self.sizes.chunk)

    def _embedded(self, piece: Piece, scene: Scene) -> Tensor:
        """The tokens of a piece [B, n, D]."""
        embedder = self.get_submodule(f"{piece.part}_embedder")
        x = piece.x.to(next(embedder.parameters()).dtype)
        if piece.part == "state":
            key = (id(self), "state")
            return scene.text.memo.once(key, lambda: embedder(x), of=scene.state)  # type: ignore[no-any-return]
        given: tuple[Tensor, ...] = ()
        if isinstance(embedder, NoisyEmbedder):
            key = (id(embedder), "level")
            given = of_level(scene.text.memo, key, embedder.wave, piece.sigma, piece.rung)
        return embedder(x, *given)  # type: ignore[no-any-return]

    def _places(
        self, scene: Scene, pieces: Sequence[Piece], lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Time, row and column of each token [S, 3], and what is added to it [S, D].

        Made once for as long as the numbers of the scene stand where they do. Words, which know
        their order already, stand at the beginning.
        """
        noisy = [getattr(scene, part) for part in MODALITIES[1:]]
        held = tuple(None if part is None else part.times for part in noisy)
        key = (id(self), "places", *lengths, *(piece.part for piece in pieces), *map(id, held))

        def make() -> tuple[Tensor, Tensor | None, tuple[Tensor | None, ...]]:
            words = scene.text.tokens.new_zeros(sum(lengths) - sum(len(p.times) for p in pieces))
            places = torch.cat([p.times for p in pieces]) if pieces else words.float()[:0]
            times, wave = self._timed(places)
            times = torch.cat([words.float(), times])
            if wave is not None:
                wave = torch.cat([wave.new_zeros(len(words), wave.shape[1]), wave])
            off = torch.full_like(times, -1)  # beside the rows and columns of any picture
            return torch.stack([times, off, off], -1), wave, held

        at, wave, _ = scene.text.memo.once(key, make)
        return at, wave

    def _timed(self, places: Tensor) -> tuple[Tensor, Tensor | None]:
        """Places [S] on the axis of actions as times of latent frames [S], or as waves [S, D]."""
        kind, frames = self.config.positions, self.sizes.frames
        if kind == "sinusoid":
            return torch.zeros_like(places), sinusoid(places + 1, self.sizes.traits.width)
        if kind == "index":
            return places, None
        if kind == "after":  # the state stands where the next frame would
            return places + sum(frames) + 1, None
        return latent_times(places, self.sizes.chunk, frames), None

    def unembed(self, stream: Stream) -> dict[str, Tensor]:
        assert isinstance(stream, Tokens)
        return {
            part: self.get_submodule(f"{part}_decoder")(stream.x[:, span])
            for part, span in stream.spans.items()
        }


def _told(embedder: nn.Linear, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Words as tokens of the backbone [B, L, D], and their noise levels [B, L]."""
    words = embedder(tokens.to(embedder.weight.dtype))
    return words, torch.zeros(tokens.shape[:2], device=words.device)


def _spans(parts: Sequence[str], lengths: Sequence[int]) -> dict[str, slice]:
    """Where the tokens of each part to be denoised are."""
    spans, start = {}, 0
    for part, length in zip(parts, lengths, strict=True):
        if part in MODALITIES:
            spans[part] = slice(start, start + length)
        start += length
    return spans
