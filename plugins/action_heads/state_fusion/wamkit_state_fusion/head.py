"""Pooled layers, fused into one vector, and each action of the chunk read off it.

    layer --adapter--> back into the stack
              |--> 16 queries --> one vector --> compressed --+
    layer ... |--> ................................ compressed --+--> fused --+ step k --> action k

Sizes and order are Light-WAM's (src/lightwam/models/wan22/state_fusion_action_expert.py, commit
b2785f6).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wamkit.acceleration.fused_linear import projected
from wamkit.config.parts import Sizes
from wamkit.config.reading import places
from wamkit.config.visibility import Visibility
from wamkit.engine.attention import Block, sdpa
from wamkit.engine.kv_cache import KVCache
from wamkit.engine.layers import LayerNorm, masked_mean, sinusoid, split_heads
from wamkit.interfaces import ReaderHead, VideoBackbone
from wamkit.interfaces.action_head import state_as_word
from wamkit.interfaces.types import Memo, Scene, Velocity

from .adapters import Corrected, CorrectedBlock

if TYPE_CHECKING:
    from . import StateFusion

STEPS = 256  # width of the sinusoid of an action's place


def perceptron(inputs: int, width: int, outputs: int, *, eps: float = 1e-5) -> nn.Sequential:
    """Norm, linear, GELU (tanh), linear."""
    gelu = nn.GELU("tanh")
    norm = LayerNorm(inputs, eps=eps)
    return nn.Sequential(norm, nn.Linear(inputs, width), gelu, nn.Linear(width, outputs))


class Pooler(nn.Module):
    """Learned queries over the tokens of a layer, merged by weights that all inputs share."""

    together = (("to_k", "to_v"),)

    def __init__(self, width: int, queries: int, heads: int) -> None:
        super().__init__()
        self.head_size = width // heads
        self.token_norm = LayerNorm(width)
        self.query_tokens = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, width)
        self.to_v, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.query_merge_logits = nn.Parameter(torch.zeros(queries))
        self.output_norm = LayerNorm(width)

    def forward(self, tokens: Tensor, valid: Tensor | None, memo: Memo) -> Tensor:
        """[B, S, D] to [B, D]; `valid` [B, S] is as `Text.mask`. Queries are kept in `memo`."""
        y = self.token_norm(tokens)
        asked = memo.once((id(self), "asked"), lambda: self.to_q(self.query_tokens))
        asked = asked.expand(y.shape[0], -1, -1)
        shown = projected(self, y, "to_k", "to_v")
        q, k, v = (split_heads(x, self.head_size) for x in (asked, *shown))
        found = self.to_out(sdpa(q, k, v, valid).transpose(1, 2).flatten(2))
        weights = self.query_merge_logits.float().softmax(0).to(found.dtype)
        pooled: Tensor = self.output_norm((found * weights[:, None]).sum(1))
        return pooled


class StateFusionHead(ReaderHead):
    """`ReaderHead` that regresses numbers from pooled layers."""

    keep_float32 = ("norm", "query_merge_logits", r"\.0\.(weight|bias)$")

    def __init__(self, config: StateFusion, sizes: Sizes) -> None:
        super().__init__()
        assert config.layers is not None
        self.config, traits = config, sizes.traits
        self.layers = places(config.layers, traits.depth)
        d, part, width = traits.width, config.layer_width, config.width
        self.poolers = nn.ModuleList(Pooler(d, config.queries, config.heads) for _ in self.layers)
        self.compressors = nn.ModuleList(perceptron(d, part, part) for _ in self.layers)
        names = [str(layer) for layer in self.layers if config.adapter]
        self.adapters = nn.ModuleDict(
            {name: perceptron(d, config.adapter, d, eps=1e-6) for name in names}
        )
        for name in names:
            nn.init.zeros_(self.adapters[name][3].weight)  # type: ignore[index]
            nn.init.zeros_(self.adapters[name][3].bias)  # type: ignore[index]
        self.state_word = self.state_numbers = None
        if sizes.state and config.state == "text":
            self.state_word = nn.Linear(sizes.state, traits.text_width)
        if sizes.state and config.state == "numbers":
            self.state_numbers = nn.Linear(sizes.state, part)
        self.words = nn.Linear(traits.text_width, part) if config.text == "pooled" else None
        count = len(self.layers) + sum(x is not None for x in (self.state_numbers, self.words))
        self._plain: list[Block] = []  # blocks of the backbone, and the same corrected
        self._made: list[Block] = []
        self.fused_norm = LayerNorm(count * part)
        self.fused_proj = nn.Linear(count * part, width)
        self.trunk = nn.ModuleList(perceptron(width, width, width) for _ in range(config.blocks))
        self.step = perceptron(STEPS, width, width)
        self.decoders = nn.ModuleDict(
            {part: perceptron(width, width, sizes.numbers(part)) for part in sizes.predicts}
        )

    def prepare(self, scene: Scene) -> Scene:
        return scene if self.state_word is None else state_as_word(scene, self.state_word)

    def join(
        self,
        backbone: VideoBackbone,
        scene: Scene,
        sees: Visibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> Velocity:
        corrected = Corrected(backbone, self._corrected(backbone.blocks))
        return super().join(corrected, scene, sees, cache, keep)

    def _corrected(self, blocks: Sequence[Block]) -> Sequence[Block]:
        """The backbone's blocks, some of them corrected; the same objects for the same blocks."""
        if [id(block) for block in blocks] != [id(block) for block in self._plain]:
            adapters = {int(place): adapter for place, adapter in self.adapters.items()}
            self._plain, self._made = (
                list(blocks),
                [
                    CorrectedBlock(block, adapters[i]) if i in adapters else block
                    for i, block in enumerate(blocks)
                ],
            )
        return self._made

    def read(
        self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None, level: Tensor
    ) -> dict[str, Tensor]:
        state = self._fused(scene, hidden, valid)  # [B, width]
        found = {}
        for part, decode in self.decoders.items():
            if getattr(scene, part) is not None:
                noisy, y = scene.noisy(part), state[:, None]
                if part == "action":
                    y = y + self._steps(noisy.x.shape[1], state, scene.text.memo)
                found[part] = noisy.towards(decode(y))
        return found

    def _fused(self, scene: Scene, hidden: Sequence[Tensor], valid: Tensor | None) -> Tensor:
        """All that is read, as one vector [B, width]."""
        pieces = [
            compress(pool(states, valid, scene.text.memo))
            for pool, compress, states in zip(self.poolers, self.compressors, hidden, strict=True)
        ]
        if self.state_numbers is not None and scene.state is not None:
            pieces.append(self.state_numbers(scene.state.to(self.state_numbers.weight.dtype)))
        if self.words is not None:
            pieces.append(
                self.words(
                    masked_mean(scene.text.tokens, scene.text.mask).to(self.words.weight.dtype)
                )
            )
        state: Tensor = self.fused_proj(self.fused_norm(torch.cat(pieces, 1)))
        for block in self.trunk:
            state = state + block(state)
        return state

    def _steps(self, count: int, like: Tensor, memo: Memo) -> Tensor:
        """What tells the actions of a chunk apart [N, width], kept in `memo`."""

        def make() -> Tensor:
            places = torch.arange(count, device=like.device)
            return self.step(sinusoid(places, STEPS).to(like.dtype))  # type: ignore[no-any-return]

        return memo.once((id(self), "steps", count), make)
