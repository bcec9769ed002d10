"""OmniGen2's transformer between its two ends: words and frames to tokens, tokens to velocity.

    words      --norm, linear--> context refiner --------+
    references --linear, + index--> reference refiner ---| x [B, S, D] --layers--> velocity
    target     --linear--> noise refiner ----------------+

Source: OmniGen2 (arXiv:2506.18871), `omnigen2/models/transformers` in
github.com/VectorSpaceLab/OmniGen2 (Apache-2.0), whose names and shapes all parameters have. There
time runs from noise to data and the network predicts data - noise; wamkit's sigma is one minus
that time, and its velocity the negative of the prediction.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs, spread, stacked
from wamkit.engine.text import mask_of, text_level

from wamkit.engine.attention import sdpa
from wamkit.errors import WamkitError
from wamkit.interfaces.types import Frames, Segment, Text, base

from . import REFERENCES
from .blocks import (
    Conditioning,
    ContextBlock,
    Heads,
    Joined,
    OmniGen2Block,
    Places,
    by_frame,
    refine,
    turn,
)
from .stack import OmniGen2Stack, level_width_of

if TYPE_CHECKING:
    from . import OmniGen2

GIVEN = ("context", "seen", "state")  # what reference images show


class WayOut(nn.Module):
    """A norm that is scaled, not shifted, and the last linear layer."""

    def __init__(self, width: int, level_width: int, patch: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(level_width, width)
        self.linear_2 = nn.Linear(width, patch)

    def scale(self, level: Tensor) -> Tensor:
        """Levels [B, T, width of levels] to [B, T, D] float32."""
        return self.linear_1(level).float()

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        """Tokens [B, T, n, D] and scales [B, T, D] to patches [B, T, n, patch]."""
        y = F.layer_norm(x.float(), x.shape[-1:], eps=1e-6) * (1 + scale.unsqueeze(2))
        return self.linear_2(y.to(x.dtype))


class Told(NamedTuple):
    """Noise levels of words and frames in a row, embedded, or what was made of them already."""

    level: Tensor | None = None  # [B, 1 + T, width of levels]
    layers: Tensor | None = None  # [B, G, blocks, 4 D], as `wamkit.acceleration.memo.stacked`
    noise: Tensor | None = None  # the same of the noise refiner
    references: Tensor | None = None  # the same of the reference refiner
    out: Tensor | None = None  # [B, G, D] of the way out
    owner: Tensor | None = None  # [1 + T] whose column is whose

    def of_frames(self, made: Tensor) -> Tensor:
        """What was made of the levels [B, G, ...] for the frames, [B, T, ...] or [B, 1, ...]."""
        each = spread(made, self.owner)
        return each if each.shape[1] == 1 else each[:, 1:]


class OmniGen2Backbone(OmniGen2Stack):
    """`VideoBackbone` with the architecture of OmniGen2.

    Frames of the observation and of the state are reference images, in their order; any other
    frame is an image in the making. Frames follow each other by the longer side of an image for
    each step in time, which is the published layout when references come first.
    """

    attend = staticmethod(sdpa)

    def __init__(self, config: OmniGen2) -> None:
        self.traits = traits = config.traits
        width, (_, rows, columns) = traits.width, traits.patch
        super().__init__(config, width, config.feed_forward, words=True)
        patch, level_width = rows * columns * traits.latent_channels, level_width_of(width)
        sizes = width, Heads(traits.heads, traits.key_heads, traits.head_size), config.feed_forward
        self.x_embedder = nn.Linear(patch, width)
        self.ref_image_patch_embedder = nn.Linear(patch, width)
        self.image_index_embedding = nn.Parameter(0.02 * torch.randn(REFERENCES, width))
        self.noise_refiner, self.ref_image_refiner = (
            nn.ModuleList(OmniGen2Block(*sizes, level_width) for _ in range(config.refiners))
            for _ in range(2)
        )
        self.context_refiner = nn.ModuleList(ContextBlock(*sizes) for _ in range(config.refiners))
        self.norm_out = WayOut(width, level_width, patch)

    def embed(self, video: Frames, text: Text | None) -> tuple[Tensor, tuple[Segment, ...], Joined]:
        """Words first, then frames, each frame row by row.

        Raises WamkitError if a pass has more reference images than there are embeddings for.
        """
        dtype = self.x_embedder.weight.dtype
        patches = pack(video.z.to(dtype), self.traits.patch)  # [B, T, rows, columns, patch]
        _, frames, rows, columns, _ = patches.shape
        shape, told = (frames, rows, columns), self._told(video, text)
        x = self._refined(video, patches.flatten(2, 3), told, shape)
        times = video.times.to(x.device)
        cos, sin = video.memo.once(
            (id(self), "all"), lambda: self._turn(places_of(times, shape)), of=video.times
        )
        segments, words = video.segments(rows * columns), 0
        if text is not None:
            y, places = text.memo.once(
                (id(self), "words"), lambda: self._words(text, dtype), of=text.tokens
            )
            words, x = y.shape[1], torch.cat([y, x], 1)
            segments = (Segment("text", words, text.mask), *segments)
            cos, sin, _ = video.memo.once(
                (id(self), "joined", id(cos)), partial(_joined, places, cos, sin, len(x)), of=places
            )
        owner = self._owner(video, told, words, shape)
        scale = None if told.out is None else told.of_frames(told.out)
        cond = Joined(cos, sin, told.level, told.layers, owner, words, shape, scale)
        return x, segments, cond

    def unembed(self, x: Tensor, cond: Joined) -> Tensor:
        scale = cond.scale
        if scale is None:
            assert cond.level is not None
            scale = self.norm_out.scale(cond.level[:, 1:])
        y = -self.norm_out(by_frame(x, cond), scale)
        return unpack(y.unflatten(2, cond.shape[1:]), self.traits.patch)

    def _told(self, video: Frames, text: Text | None) -> Told:
        """Noise levels of words and frames; looked up if all of them are known, as rungs."""
        ladder, (sigma, rung) = video.ladder, text_level(text, video)
        if ladder is None or rung is None or torch.is_grad_enabled():
            return Told(self._level(torch.cat([sigma, video.sigma], 1)))
        rungs = Rungs(((rung, 1), *ladder.parts), video.sigma)
        found, owner = rungs.once(video.memo, (id(self), "level"), self._rows)
        layers, noise, references, out = found
        return Told(None, layers, noise, references, out, owner)

    def _rows(self, sigma: Tensor) -> tuple[Tensor, ...]:
        """As of any stack; then what both refiners and the way out make of the levels."""
        level = self._level(sigma)
        refiners = self.noise_refiner, self.ref_image_refiner
        rows = (stacked(blocks, level, lambda b: b.modulation(level)) for blocks in refiners)
        return *super()._rows(sigma), *rows, self.norm_out.scale(level)

    def _owner(
        self, video: Frames, told: Told, words: int, shape: tuple[int, int, int]
    ) -> Tensor | None:
        """The column of each token among what was told of the levels [S]; None for one of all."""
        rows, of = told.layers, told.owner
        if rows is not None and rows.shape[1] == 1:
            return None
        key = (id(self), "owner", words, id(of))

        def make() -> Tensor:
            groups = _owner(shape, words, video.z.device)
            return groups if of is None else of[groups]

        return video.memo.once(key, make, of=of)

    def _words(self, text: Text, dtype: torch.dtype) -> tuple[Tensor, Places]:
        """Refined words [B, L, D], and their places: they end where the first frame begins."""
        tokens = self.time_caption_embed.caption_embedder(text.tokens.to(dtype))
        valid = text.valid
        if valid is None:
            valid = torch.ones_like(text.tokens[:1, :, 0], dtype=torch.bool)
        index = valid.cumsum(1) - 1  # [B or 1, L]; padding is skipped, and never looked at
        before = index - valid.sum(1, keepdim=True)
        places = Places(*turn(*zip((before, index, index), self.axes, strict=True)))
        return refine(self.context_refiner, tokens, places, mask_of(text, dtype)), places

    def _refined(
        self, video: Frames, patches: Tensor, told: Told, shape: tuple[int, int, int]
    ) -> Tensor:
        """Patches [B, T, n, patch] to tokens [B, T n, D], every frame refined by itself."""
        device = patches.device
        cos, sin = video.memo.once(
            (id(self), "one"),
            lambda: self._turn(places_of(torch.zeros(1, device=device), shape)),
            of=video.times,
        )
        done: dict[int, Tensor] = {}
        for reference, embedder, blocks, rows in (
            (True, self.ref_image_patch_embedder, self.ref_image_refiner, told.references),
            (False, self.x_embedder, self.noise_refiner, told.noise),
        ):
            at = [i for i, r in enumerate(video.roles) if (base(r) in GIVEN) is reference]
            if not at:
                continue
            x = embedder(torch.stack([patches[:, i] for i in at], 1))  # [B, frames, n, D]
            if reference:
                x = x + self._indexes(video.roles, at)
            made = told.of_frames(told.level if rows is None else rows)  # type: ignore[arg-type]
            if made.shape[1] > 1:  # a level for each frame, and a frame is a sample here
                made = torch.stack([made[:, i] for i in at], 1)
                made = made.expand(len(x), *made.shape[1:]).flatten(0, 1).unsqueeze(1)
            level = made if rows is None else None
            cond = Conditioning(cos, sin, level, None if rows is None else made, None)
            x = refine(blocks, x.flatten(0, 1), cond)
            done |= zip(at, x.unflatten(0, (-1, len(at))).unbind(1), strict=True)
        return torch.cat([done[i] for i in range(len(video.roles))], 1)

    def _indexes(self, roles: tuple[str, ...], at: list[int]) -> Tensor:
        """The embeddings [references, 1, D] that tell the frames of one role apart."""
        ranks = [roles[:i].count(roles[i]) for i in at]
        if max(ranks) >= REFERENCES:
            raise WamkitError(
                f"found {max(ranks) + 1} reference images in a pass; omnigen2 tells at most "
                f"{REFERENCES} apart",
                "give fewer context frames",
            )
        return torch.stack([self.image_index_embedding[rank] for rank in ranks]).unsqueeze(1)


def places_of(times: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Place in the sequence, row and column of all tokens of frames at `times` [T], [T n, 3]."""
    _, rows, columns = shape
    sides = (torch.arange(side, device=times.device) for side in (rows, columns))
    axes = (axis.double() for axis in (times * max(rows, columns), *sides))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 2)


def _owner(shape: tuple[int, int, int], words: int, device: torch.device) -> Tensor:
    """The group of each token [S]: 0 is that of the words, then every frame has one."""
    frames, rows, columns = shape
    each = torch.arange(1, frames + 1, device=device).repeat_interleave(rows * columns)
    return F.pad(each, (words, 0))


def _joined(
    words: Places, cos: Tensor, sin: Tensor, batch: int
) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Rotary tables of words and frames, and those of the frames, by which they are kept."""
    return join(words.cos, cos, batch), join(words.sin, sin, batch), (cos, sin)


def join(words: Tensor, frames: Tensor, batch: int) -> Tensor:
    """Rotary tables [B or 1, 1, S, E / 2] of words and frames in a row, one a sample."""
    return torch.cat([table.expand(batch, -1, -1, -1) for table in (words, frames)], 2)


def pack(z: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Latents [B, C, T, h, w] to patches [B, T, rows, columns, patch * C], channels last."""
    _, height, width = patch
    z = z.unflatten(4, (-1, width)).unflatten(3, (-1, height))  # [B, C, T, rows, ., columns, .]
    return z.permute(0, 2, 3, 5, 4, 6, 1).flatten(4)


def unpack(y: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Patches [B, T, rows, columns, patch * C] to latents [B, C, T, h, w]."""
    y = y.unflatten(4, (*patch[1:], -1)).permute(0, 6, 1, 2, 4, 3, 5)
    return y.flatten(5, 6).flatten(3, 4)
