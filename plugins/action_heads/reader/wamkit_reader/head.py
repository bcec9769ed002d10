"""The action head `reader`: a transformer over vectors that attends to hidden states.

hidden states, text --encode_hidden--> keys and values of each block     once per cache
vectors --encoders--> tokens --blocks--> tokens --decoders--> velocities  every step
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import pi
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.config.reading import places
from wamkit.engine.layers import KV, RotaryEmbedding, additive_mask, rotary_embedding
from wamkit.interfaces import ReaderHead, append_state
from wamkit.interfaces.types import ModelInputs, Text, TokenGroup

from .blocks import Block, Levels, read_blocks

if TYPE_CHECKING:
    from . import Reader

BASE_LENGTH = 57  # places that span the slowest rotation's half turn, as in GE-Act


class DiTReader(ReaderHead):
    """`ReaderHead` that denoises vectors with a transformer of its own."""

    keep_float32 = ("^levels", "scale_shift_table", "norm_")

    def __init__(self, config: Reader, sizes: HeadContext) -> None:
        super().__init__()
        assert config.layers is not None
        self.config = config
        width, traits = config.width, sizes.traits
        self.layers = places(config.layers, traits.depth)
        self.reads_video_level = config.levels == "both"
        state = sizes.state if config.state == "concat" else 0
        inputs = {part: sizes.token_dim(part) for part in sizes.predicts}
        self.decoders = nn.ModuleDict({part: nn.Linear(width, n) for part, n in inputs.items()})
        inputs["action"] += state
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
        self.state_to_text: nn.Linear | None = None
        if config.state == "text" and sizes.state:
            self.state_to_text = nn.Linear(sizes.state, traits.text_width)

    def prepare(self, inputs: ModelInputs) -> ModelInputs:
        return inputs if self.state_to_text is None else append_state(inputs, self.state_to_text)

    def token_groups(self, inputs: ModelInputs) -> list[TokenGroup]:
        known = {*self.encoders, *(["state"] if self.config.state == "action_token" else [])}
        return [group for group in inputs.groups() if group.modality in known]

    def embed_text(self, text: Text) -> tuple[KV, ...] | None:
        """Keys and values of the prompt in each block, if it is read."""
        if (embedder := self.text_embedder) is None:
            return None
        tokens = embedder(text.whole.tokens.to(embedder.weight.dtype))
        return tuple(block.attn2.kv(tokens, text.whole.mask) for block in self.blocks)  # type: ignore[union-attr,operator]

    def encode_hidden(
        self, hidden: Sequence[Tensor], mask: Tensor | None, text: tuple[KV, ...] | None
    ) -> tuple[KV, ...]:
        """Keys and values for each block's cross-attention; masks are additive."""
        found = []
        for i, block in enumerate(self.blocks):
            assert isinstance(block, Block)
            states = [hidden[i]] if self.config.reads == "each" else hidden
            parts = [block.attn2.kv(x, mask) for x in states]
            if text is not None:
                parts.append(text[i])
            kv = KV.join(parts).detached()
            found.append(kv._replace(mask=additive_mask(kv.mask, kv.k.dtype)))
        return tuple(found)

    def embed_levels(self, sigmas: Tensor, video: Tensor) -> Tensor:
        """Embedding, and six shifts, scales and gates: [R, 7, D] float32."""
        embedding = self.levels(sigmas.float(), video.float())
        rows = self.modulation(F.silu(embedding).to(self.modulation.weight.dtype))
        return torch.cat([embedding[:, None], rows.float().unflatten(-1, (6, -1))], 1)

    def embed_layout(
        self, groups: Sequence[TokenGroup], device: torch.device
    ) -> RotaryEmbedding | None:
        """Rotary positions in the manner of LTX-Video: fast ones, by places / 57."""
        if self.config.positions not in ("rotary", "rotary_float32"):
            return None
        places = [time for group in groups for time in group.times]
        dtype, half = torch.float64, self.config.width // 2
        if self.config.positions == "rotary_float32":  # the first token stands at 0
            dtype, places = torch.float32, [time - min(*places, 0.0) for time in places]
        times = torch.tensor(places, dtype=dtype, device=device)
        power = torch.linspace(0, 1, half, device=device, dtype=dtype)
        return rotary_embedding(10_000**power * pi / 2 * (times[:, None] / BASE_LENGTH * 2 - 1))

    def read(
        self,
        inputs: ModelInputs,
        groups: Sequence[TokenGroup],
        memory: tuple[KV, ...],
        levels: Tensor,
        layout: RotaryEmbedding | None,
        call: Callable[..., Any],
    ) -> dict[str, Tensor]:
        x = torch.cat([self._embed(group, inputs) for group in groups], 1)
        y = call(read_blocks, self.blocks, self.scale_shift_table, x, levels, memory, layout)
        parts = y.split([len(group.roles) for group in groups], 1)
        return {
            group.modality: self.decoders[group.modality](part)
            for group, part in zip(groups, parts, strict=True)
            if group.modality != "state"
        }

    def encode_state(self, state: Tensor) -> Tensor:
        part = "action" if self.config.state == "action_token" else "state"
        if part not in self.encoders:
            return state
        encoder = self.encoders[part]
        assert isinstance(encoder, nn.Linear)
        state = F.pad(state, (encoder.in_features - state.shape[-1], 0))
        return encoder(state.to(encoder.weight.dtype))  # type: ignore[no-any-return]

    def _embed(self, group: TokenGroup, inputs: ModelInputs) -> Tensor:
        """Vectors of a group as tokens [B, n, D]."""
        x = group.x
        assert x is not None
        if group.modality == "state":
            return x  # encoded already
        encoder = self.encoders[group.modality]
        assert isinstance(encoder, nn.Linear)
        state = inputs.state if self.config.state == "concat" else None
        if group.modality == "action" and state is not None:
            x = torch.cat([x, state[:, None].expand(-1, x.shape[1], -1).to(x.dtype)], 2)
        tokens: Tensor = encoder(x.to(encoder.weight.dtype))
        if group.modality == "action" and self.positions is not None:
            tokens = tokens + self.positions[: tokens.shape[1]]
        return tokens
