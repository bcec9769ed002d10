"""The action expert: a transformer of its own width in the backbone's head space.

    x --adaLN--> q k v --(attention shared with the video)--> + --text--> + --feed-forward--> +

Parameter names follow diffusers' video transformers, so that an expert can be initialized from one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wamkit.attention import QKV, Block, Stream, sdpa
from wamkit.interfaces import ExpertHead, VideoBackbone
from wamkit.layers import (
    Embedder,
    FeedForward,
    LayerNorm,
    RMSNorm,
    modulated,
    rotary_angles,
    rotate_pairs,
    sinusoid,
    split_heads,
)
from wamkit.parts import Sizes, Traits
from wamkit.types import Piece, Scene, Text, levels_of

from .interpolate import from_video

if TYPE_CHECKING:
    from . import Mot

LEVELS = 256  # width of the sinusoid of the noise level


@dataclass(frozen=True)
class Conditioning:
    """What the expert's blocks need besides tokens."""

    modulation: Tensor  # [B, 6, S or 1, D] float32
    cos: Tensor  # [S, E / 2] float32
    sin: Tensor  # [S, E / 2]
    words: Tensor | None  # [B, L, D] the instruction at the expert's width
    text: Text  # its mask, and what is computed once from it


class Attention(nn.Module):
    """Projections into and out of the backbone's head space; q and k normalized over all heads."""

    def __init__(self, width: int, heads: int, key_heads: int, head_size: int) -> None:
        super().__init__()
        self.head_size = head_size
        self.to_q = nn.Linear(width, heads * head_size)
        self.to_k = nn.Linear(width, key_heads * head_size)
        self.to_v = nn.Linear(width, key_heads * head_size)
        self.to_out = nn.ModuleList([nn.Linear(heads * head_size, width)])
        self.norm_q = RMSNorm(heads * head_size)
        self.norm_k = RMSNorm(key_heads * head_size)

    def query(self, x: Tensor) -> Tensor:
        """[B, S, D] to [B, H, S, E]."""
        return split_heads(self.norm_q(self.to_q(x)), self.head_size)

    def key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[B, S, D] to two of [B, K, S, E]."""
        k = split_heads(self.norm_k(self.to_k(x)), self.head_size)
        return k, split_heads(self.to_v(x), self.head_size)


class ExpertBlock(nn.Module):
    """One block of the expert, opened at its self-attention."""

    def __init__(self, width: int, feed_forward: int, traits: Traits, *, text: bool) -> None:
        super().__init__()
        shape = traits.heads, traits.key_heads, traits.head_size
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, width) / width**0.5)
        self.attn1 = Attention(width, *shape)
        self.norm2 = LayerNorm(width, eps=1e-6) if text else None
        self.attn2 = Attention(width, *shape) if text else None
        self.ffn = FeedForward(width, feed_forward)

    def project(self, x: Tensor, cond: Conditioning) -> tuple[QKV, Any]:
        table = self.scale_shift_table.float().unsqueeze(2) + cond.modulation  # [B, 6, S, D]
        shift, scale, gate, *rest = table.unbind(1)
        y = modulated(x, shift, scale)
        k, v = self.attn1.key_value(y)
        turn = cond.cos, cond.sin
        q = rotate_pairs(self.attn1.query(y), *turn)
        return QKV(q, rotate_pairs(k, *turn), v), (x, gate, *rest)

    def absorb(self, attended: Tensor, rest: Any, cond: Conditioning) -> Tensor:
        x, gate, shift, scale, gate_ffn = rest
        x = (x.float() + gate * self.attn1.to_out[0](attended)).to(x.dtype)
        if self.attn2 is not None and self.norm2 is not None and cond.words is not None:
            attn2, words = self.attn2, cond.words
            k, v = cond.text.memo.once((id(self), "text"), lambda: attn2.key_value(words))
            heard = sdpa(attn2.query(self.norm2(x)), k, v, cond.text.mask)
            x = x + attn2.to_out[0](heard.transpose(1, 2).flatten(2))
        y = self.ffn(modulated(x, shift, scale))
        return (x.float() + gate_ffn * y).to(x.dtype)


class ConditionEmbedder(nn.Module):
    """The embedders of noise level and words, together because diffusers names them so."""

    def __init__(self, width: int, text_width: int) -> None:
        super().__init__()
        self.time_embedder = Embedder(LEVELS, width, nn.SiLU())
        self.time_proj = nn.Linear(width, 6 * width)
        gelu = nn.GELU("tanh")
        self.text_embedder = Embedder(text_width, width, gelu) if text_width else None


class MotHead(ExpertHead):
    """`ExpertHead` that denoises an action chunk beside any backbone."""

    keep_float32 = ("time_embedder", "scale_shift_table", "norm")

    def __init__(self, config: Mot, sizes: Sizes) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, traits = config.width, sizes.traits
        self.action_encoder = nn.Linear(sizes.action, width)
        self.action_decoder = nn.Linear(width, sizes.action)
        self.condition_embedder = ConditionEmbedder(
            width, traits.text_width if config.text == "cross" else 0
        )
        self.state_encoder: nn.Linear | None = None
        if sizes.state and config.state != "none":
            goal = traits.text_width if config.state == "text" else width
            self.state_encoder = nn.Linear(sizes.state, goal)
        layers = range(0, traits.depth, config.every)
        self.expert = nn.ModuleList(
            ExpertBlock(width, config.feed_forward, traits, text=config.text == "cross")
            for _ in layers
        )

    @property
    def blocks(self) -> Sequence[Block | None]:
        every = self.config.every
        stack: list[Any] = list(self.expert)
        return [
            None if layer % every else stack[layer // every]
            for layer in range(self.sizes.traits.depth)
        ]

    def prepare(self, scene: Scene) -> Scene:
        """The state as one more word, read by video and action alike."""
        if self.config.state != "text" or self.state_encoder is None or scene.state is None:
            return scene
        encoder, state = self.state_encoder, scene.state
        text = scene.text.memo.once(
            (id(self), "state"),
            lambda: scene.text.append(encoder(state.to(encoder.weight.dtype))[:, None]),
            of=state,
        )
        return scene.with_(text=text)

    def stream(
        self, backbone: VideoBackbone, scene: Scene, known: Collection[str]
    ) -> Stream | None:
        pieces = [p for p in scene.pieces(known) if p.part == "action" or self._token(p)]
        if not pieces:
            return None
        dtype = self.action_encoder.weight.dtype
        encoders = {"state": self.state_encoder, "action": self.action_encoder}
        x = torch.cat([encoders[p.part](p.x.to(dtype)) for p in pieces], 1)  # type: ignore[misc]
        cond = self._condition(scene, levels_of(pieces), torch.cat([p.times for p in pieces]))
        return Stream(self.blocks, x, tuple(s for p in pieces for s in p.segments()), cond)

    def _token(self, piece: Piece) -> bool:
        return piece.part == "state" and self.config.state == "token"

    def _condition(self, scene: Scene, sigma: Tensor, times: Tensor) -> Conditioning:
        embedder, dtype = self.condition_embedder, self.action_encoder.weight.dtype
        level = embedder.time_embedder(sinusoid(1000 * sigma.float(), LEVELS))
        modulation = embedder.time_proj(nn.functional.silu(level).to(dtype)).float()
        words, text_embedder = None, embedder.text_embedder
        if text_embedder is not None:
            words = scene.text.memo.once(
                (id(self), "words"), lambda: text_embedder(scene.text.tokens.to(dtype))
            )
        cos, sin = scene.text.memo.once((id(self), "turn", len(times)), lambda: self._turn(times))
        modulation = modulation.unflatten(-1, (6, -1)).transpose(1, 2)
        return Conditioning(modulation, cos, sin, words, scene.text)

    def _turn(self, times: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin [S, E / 2] of places in time [S], over the whole head."""
        angles = rotary_angles(times, self.sizes.traits.head_size)
        return angles.cos().float(), angles.sin().float()

    def unembed(self, stream: Stream) -> dict[str, Tensor]:
        states = sum(s.length for s in stream.segments if s.role == "state")
        length = stream.x.shape[1]
        return {"action": self.action_decoder(stream.x[:, states:])} if length > states else {}

    def initialize_from(self, backbone: VideoBackbone) -> None:
        """With init = "video", take the backbone's weights. Raises WamkitError if none fit."""
        if self.config.init == "video" and self.config.weights is None:
            from_video(self, backbone, every=self.config.every)
