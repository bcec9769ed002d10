"""The reading transformer: self-attention over numbers, cross-attention to hidden states.

    x --adaLN--> self-attention --> + --hidden states of a layer--> + --adaLN, feed-forward--> +

The block is GE-Act's (models/action_patches/patches.py, commit 7e007c7): norms without weights, one
modulation for all blocks and a table for each, no norm and no gate around the cross-attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import pi
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wamkit.acceleration.memo import Memo
from wamkit.acceleration.regions import region

from wamkit.acceleration.fused_linear import projected
from wamkit.config.parts import Sizes
from wamkit.config.reading import places
from wamkit.engine.attention import sdpa
from wamkit.engine.kv_cache import KV
from wamkit.engine.layers import (
    Embedder,
    FeedForward,
    RMSNorm,
    additive,
    modulated,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.interfaces import ReaderHead
from wamkit.interfaces.action_head import state_as_word
from wamkit.interfaces.types import Piece, Scene, levels_of

if TYPE_CHECKING:
    from . import Reader

LEVELS = 256  # width of the sinusoid of a noise level
BASE_LENGTH = 57  # places that span the slowest rotation's half turn, as in GE-Act

Turn = tuple[Tensor, Tensor]
"""cos and sin [S, D / 2] float32: positions rotate all heads as one."""


class Attention(nn.Module):
    """Attention at the head's width over tokens of any width; q and k normalized over all heads."""

    together = (("to_q", "to_k", "to_v"), ("to_k", "to_v"))

    def __init__(self, width: int, head_size: int, source: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(source, width)
        self.to_v = nn.Linear(source, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_q = RMSNorm(width, eps=1e-5)
        self.norm_k = RMSNorm(width, eps=1e-5)

    def show(self, x: Tensor, valid: Tensor | None = None) -> KV:
        """Keys and values of tokens [B, S, source]; `valid` [B, S] is as `Text.mask`."""
        k, v = projected(self, x, "to_k", "to_v")
        return KV(self._placed(self.norm_k(k), None), split_heads(v, self.head_size), valid)

    def read(self, x: Tensor, shown: KV) -> Tensor:
        """What tokens [B, S, D] find among those that are shown, [B, S, D]."""
        return self._heard(self._placed(self.norm_q(self.to_q(x)), None), shown)

    def forward(self, x: Tensor, turn: Turn | None) -> Tensor:
        """[B, S, D] to [B, S, D]: tokens among themselves, turned by their places."""
        q, k, v = projected(self, x, "to_q", "to_k", "to_v")
        q, k = self._placed(self.norm_q(q), turn), self._placed(self.norm_k(k), turn)
        return self._heard(q, KV(k, split_heads(v, self.head_size)))

    def _heard(self, q: Tensor, shown: KV) -> Tensor:
        heard = sdpa(q, shown.k, shown.v, shown.valid)
        return self.to_out[0](heard.transpose(1, 2).flatten(2))

    def _placed(self, x: Tensor, turn: Turn | None) -> Tensor:
        """[B, S, D] turned by its place, as heads [B, H, S, E]."""
        if turn is not None:
            x = rotate_pairs(x[:, None], *turn)[:, 0]
        return split_heads(x, self.head_size)


class Block(nn.Module):
    """Self-attention, cross-attention, feed-forward; the first and last follow the noise level."""

    def __init__(self, config: Reader, source: int) -> None:
        super().__init__()
        width = config.width
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)
        self.attn1 = Attention(width, config.head_size, width)
        self.attn2 = Attention(width, config.head_size, source)
        self.ffn = FeedForward(width, config.feed_forward)

    def forward(self, x: Tensor, modulation: Tensor, shown: KV, turn: Turn | None) -> Tensor:
        """[B, S, D] to [B, S, D]; `modulation` [B, S or 1, 6, D] float32."""
        table = self.scale_shift_table.float() + modulation
        shift, scale, gate, *rest = table.unbind(2)
        y = _scaled(x, shift, scale)
        x = (x.float() + gate * self.attn1(y, turn)).to(x.dtype)
        x = x + self.attn2.read(x, shown)
        shift, scale, gate = rest
        return (x.float() + gate * self.ffn(_scaled(x, shift, scale))).to(x.dtype)


@region
def _passed(block: Block, x: Tensor, modulation: Tensor, shown: KV, turn: Turn | None) -> Tensor:
    """The block's forward, as one piece where a policy runs compiled."""
    return block(x, modulation, shown, turn)  # type: ignore[no-any-return]


def _scaled(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """RMS norm without weights, then scaled and shifted, in float32; the dtype of x out."""
    normal = F.rms_norm(x.float(), x.shape[-1:], eps=1e-6)
    return (normal * (1 + scale) + shift).to(x.dtype)


class Levels(nn.Module):
    """Noise levels as one embedding: that of the action alone, or with that of the frames.

    The two meet in a bilinear map of low rank, as in mimic-video (arXiv 2512.15692); a bias on each
    side lets either speak for itself.
    """

    def __init__(self, width: int, rank: int | None) -> None:
        super().__init__()
        self.action = Embedder(LEVELS, width, nn.SiLU())
        if rank is not None:
            self.video = Embedder(LEVELS, width, nn.SiLU())
            self.left, self.right = nn.Linear(width, rank), nn.Linear(width, rank)
            self.out = nn.Linear(rank, width)
        self.both = rank is not None

    def forward(self, sigma: Tensor, level: Tensor) -> Tensor:
        """Levels of tokens [B, S], and of the frames they read [B, 1], to [B, S, D], float32.

        Levels of tokens may be [R, 1, S], of R steps: [R, B, S, D].
        """
        own: Tensor = self.action(sinusoid(1000 * sigma, LEVELS))
        if not self.both:
            return own
        seen = self.right(self.video(sinusoid(1000 * level, LEVELS)))
        product: Tensor = self.out(self.left(own) * seen)
        return product


class DiTReader(ReaderHead):
    """`ReaderHead` that denoises numbers with a transformer of its own."""

    keep_float32 = ("^levels", "scale_shift_table", "norm_")

    def __init__(self, config: Reader, sizes: Sizes) -> None:
        super().__init__()
        assert config.layers is not None
        self.config = config
        width, traits = config.width, sizes.traits
        self.layers = places(config.layers, traits.depth)
        beside = sizes.state if config.state == "numbers" else 0
        inputs = {part: sizes.numbers(part) for part in sizes.predicts}
        self.decoders = nn.ModuleDict({part: nn.Linear(width, n) for part, n in inputs.items()})
        inputs["action"] += beside
        if config.state == "token" and sizes.state:
            inputs["state"] = sizes.state
        self.encoders = nn.ModuleDict({part: nn.Linear(n, width) for part, n in inputs.items()})
        self.levels = Levels(width, config.rank if config.levels == "both" else None)
        self.modulation = nn.Linear(width, 6 * width)
        count = len(self.layers) if config.reads == "each" else config.blocks
        self.blocks = nn.ModuleList(Block(config, traits.width) for _ in range(count or 0))
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.positions: nn.Parameter | None = None
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.randn(sizes.chunk, width) * 0.02)
        self.text_embedder: nn.Linear | None = None
        if config.text == "cross":
            self.text_embedder = nn.Linear(traits.text_width, traits.width)
        self.state_word: nn.Linear | None = None
        if config.state == "text" and sizes.state:
            self.state_word = nn.Linear(sizes.state, traits.text_width)

    def prepare(self, scene: Scene) -> Scene:
        return scene if self.state_word is None else state_as_word(scene, self.state_word)

    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        pieces = [p for p in scene.pieces() if p.part in self.encoders]
        x = torch.cat([self._embedded(p, scene) for p in pieces], 1)
        noise, modulation = self._noise(pieces, scene, level)
        turn = self._turn(pieces, scene)
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            source = hidden[i] if self.config.reads == "each" else hidden[0]
            key = (id(block), *(p.roles[0] for p in pieces))
            make = partial(self._shown, block.attn2, i, scene, hidden, valid)
            shown = scene.text.memo.once(key, make, of=source)
            x = _passed(block, x, modulation, shown, turn)
        shift, scale = (self.scale_shift_table.float() + noise[:, :, None]).unbind(2)
        parts = modulated(x, shift, scale).split([p.x.shape[1] for p in pieces], 1)
        return {
            p.part: self.decoders[p.part](y)
            for p, y in zip(pieces, parts, strict=True)
            if p.part != "state"
        }

    def _noise(self, pieces: Sequence[Piece], scene: Scene, level: Tensor) -> tuple[Tensor, Tensor]:
        """Embedded levels of all tokens [B, S or 1, D] and modulations [B, S or 1, 6, D], float32.

        A batch of one serves all samples.
        """
        both, memo = self.levels.both, scene.text.memo

        def make(sigma: Tensor) -> tuple[Tensor, ...]:
            noise = self.levels(sigma.float(), level[:, None].float())
            modulation = self.modulation(F.silu(noise).to(self.modulation.weight.dtype))
            return noise, modulation.float().unflatten(-1, (6, -1))

        # Frames that are passed in every step have a new level there, and what is made of both
        # could not be looked up.
        moves = both and scene.clip is not None
        if moves or torch.is_grad_enabled() or any(piece.rung is None for piece in pieces):
            noise, modulation = make(levels_of(pieces))
            return noise, modulation
        kept = memo.once((id(self), "levels"), Memo, of=level) if both else memo
        found = []
        for piece in pieces:
            assert piece.rung is not None
            if both:  # [1, B, 1, ...], each sample with the level of its frames
                rows = piece.rung.once(kept, (id(self), "level"), lambda x: make(x[:, None]))
                found.append((piece, [x[0] for x in rows]))
            else:
                rows = piece.rung.once(kept, (id(self), "level"), make)
                found.append((piece, list(rows)))
        noise, modulation = found[0][1]
        if len(found) > 1:
            noise = torch.cat([x.expand(*p.x.shape[:2], -1) for p, (x, _) in found], 1)
            modulation = torch.cat([x.expand(*p.x.shape[:2], -1, -1) for p, (_, x) in found], 1)
        return noise, modulation

    def _embedded(self, piece: Piece, scene: Scene) -> Tensor:
        """Numbers of a piece as tokens [B, N, D]."""
        encoder, x = self.encoders[piece.part], piece.x
        assert isinstance(encoder, nn.Linear)
        if piece.part == "state":
            return scene.text.memo.once(
                (id(self), "state"), lambda: encoder(x.to(encoder.weight.dtype)), of=scene.state
            )
        if piece.part == "action" and self.config.state == "numbers" and scene.state is not None:
            x = torch.cat([x, scene.state[:, None].expand(-1, x.shape[1], -1).to(x.dtype)], 2)
        tokens: Tensor = encoder(x.to(encoder.weight.dtype))
        if piece.part == "action" and self.positions is not None:
            tokens = tokens + self.positions[: tokens.shape[1]]
        return tokens

    def _turn(self, pieces: Sequence[Piece], scene: Scene) -> Turn | None:
        """Rotations of all tokens, in the manner of LTX-Video: fast ones by places / 57."""
        if self.config.positions != "rotary":
            return None

        def make() -> Turn:
            times = torch.cat([p.times for p in pieces]).double()
            half = self.config.width // 2
            power = torch.linspace(0, 1, half, device=times.device, dtype=torch.float64)
            angles = 10_000**power * pi / 2 * (times[:, None] / BASE_LENGTH * 2 - 1)
            return angles.cos().float(), angles.sin().float()

        return scene.text.memo.once((id(self), *(p.roles for p in pieces)), make)

    def _shown(
        self,
        attention: Attention,
        place: int,
        scene: Scene,
        hidden: Sequence[Tensor],
        valid: Tensor | None,
    ) -> KV:
        """Keys and values of what block number `place` reads."""
        read = [hidden[place]] if self.config.reads == "each" else hidden
        shown = [attention.show(states, valid) for states in read]
        if (embedder := self.text_embedder) is not None:
            text = scene.text
            words = text.lasting.once(
                (id(self), "words"), lambda: embedder(text.tokens.to(embedder.weight.dtype))
            )
            shown.append(attention.show(words, text.mask))
        whole = KV.join(shown).kept()
        return whole._replace(valid=additive(whole.valid, whole.k.dtype))
