"""Pooled layers, fused into one vector, and each action of the chunk read off it.

    layer --adapter--> back into the stack
              |--> 16 queries --> one vector --> compressed --+
    layer ... |--> ................................ compressed --+--> fused --+ step k --> action k

Sizes and order are Light-WAM's (src/lightwam/models/wan22/state_fusion_action_expert.py, commit
b2785f6).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.config.reading import places
from wamkit.config.visibility import LayerVisibility
from wamkit.engine.layers import (
    KV,
    LayerNorm,
    additive_mask,
    attend_text,
    fused_linear,
    masked_mean,
    sinusoid,
    split_heads,
)
from wamkit.interfaces import Backbone, PassRunner, ReaderHead, WrapperCache, append_state
from wamkit.interfaces.types import KVCache, ModelInputs, ModelOutput, Text, TokenGroup

from .adapters import CorrectedBackbone

if TYPE_CHECKING:
    from . import StateFusion

FREQUENCIES = 256  # width of the sinusoid of an action's place


def perceptron(inputs: int, width: int, outputs: int, *, eps: float = 1e-5) -> nn.Sequential:
    """Norm, linear, GELU (tanh), linear."""
    gelu = nn.GELU("tanh")
    norm = LayerNorm(inputs, eps=eps)
    return nn.Sequential(norm, nn.Linear(inputs, width), gelu, nn.Linear(width, outputs))


class Pooler(nn.Module):
    """Learned queries over the tokens of a layer, merged by weights that all inputs share."""

    fuse_groups = (("to_k", "to_v"),)

    def __init__(self, width: int, queries: int, num_heads: int) -> None:
        super().__init__()
        self.head_dim = width // num_heads
        self.token_norm = LayerNorm(width)
        self.query_tokens = nn.Parameter(torch.randn(queries, width) * 0.02)
        self.to_q, self.to_k = nn.Linear(width, width), nn.Linear(width, width)
        self.to_v, self.to_out = nn.Linear(width, width), nn.Linear(width, width)
        self.query_merge_logits = nn.Parameter(torch.zeros(queries))
        self.output_norm = LayerNorm(width)

    def queries(self) -> Tensor:
        """The queries [queries, D], which depend on nothing but weights."""
        return self.to_q(self.query_tokens)  # type: ignore[no-any-return]

    def forward(self, tokens: Tensor, mask: Tensor | None, queries: Tensor) -> Tensor:
        """[B, S, D] to [B, D]; `mask` [B, S] is as `Text.mask`."""
        y, size = self.token_norm(tokens), self.head_dim
        q = split_heads(queries.expand(y.shape[0], -1, -1), size)
        k, v = (split_heads(x, size) for x in fused_linear(self, y, "to_k", "to_v"))
        found = self.to_out(attend_text(q, KV(k, v, additive_mask(mask, k.dtype))))
        weights = self.query_merge_logits.float().softmax(0).to(found.dtype)
        return self.output_norm((found * weights[:, None]).sum(1))


class StateFusionHead(ReaderHead):
    """`ReaderHead` that regresses vectors from pooled layers."""

    keep_float32 = ("norm", "query_merge_logits", r"\.0\.(weight|bias)$")

    def __init__(self, config: StateFusion, sizes: HeadContext) -> None:
        super().__init__()
        assert config.layers is not None
        self.config, traits = config, sizes.traits
        self.layers = places(config.layers, traits.depth)
        d, part, width = traits.width, config.layer_width, config.width
        self.poolers = nn.ModuleList(
            Pooler(d, config.queries, config.num_heads) for _ in self.layers
        )
        self.compressors = nn.ModuleList(perceptron(d, part, part) for _ in self.layers)
        names = [str(layer) for layer in self.layers if config.adapter]
        self.adapters = nn.ModuleDict(
            {name: perceptron(d, config.adapter, d, eps=1e-6) for name in names}
        )
        for name in names:
            nn.init.zeros_(self.adapters[name][3].weight)  # type: ignore[index]
            nn.init.zeros_(self.adapters[name][3].bias)  # type: ignore[index]
        self.state_to_text = self.state_proj = None
        if sizes.state and config.state == "text":
            self.state_to_text = nn.Linear(sizes.state, traits.text_width)
        if sizes.state and config.state == "concat":
            self.state_proj = nn.Linear(sizes.state, part)
        self.text_proj = nn.Linear(traits.text_width, part) if config.text == "pooled" else None
        count = len(self.layers) + sum(x is not None for x in (self.state_proj, self.text_proj))
        self.corrected: WrapperCache[CorrectedBackbone] = WrapperCache()
        self.fused_norm = LayerNorm(count * part)
        self.fused_proj = nn.Linear(count * part, width)
        self.trunk = nn.ModuleList(perceptron(width, width, width) for _ in range(config.blocks))
        self.step = perceptron(FREQUENCIES, width, width)
        self.decoders = nn.ModuleDict(
            {part: perceptron(width, width, sizes.token_dim(part)) for part in sizes.predicts}
        )

    def prepare(self, inputs: ModelInputs) -> ModelInputs:
        return inputs if self.state_to_text is None else append_state(inputs, self.state_to_text)

    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        inputs: ModelInputs,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> ModelOutput:
        if adapters := {int(layer): adapter for layer, adapter in self.adapters.items()}:
            backbone = self.corrected.get_or_wrap(CorrectedBackbone, backbone, adapters)
        return super().join(runner, backbone, inputs, sees, cache, keep)

    def embed_text(self, text: Text) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The queries of each pooler, and the prompt as one vector if it is read."""
        queries = tuple(pooler.queries() for pooler in self.poolers)  # type: ignore[operator]
        if self.text_proj is None:
            return queries, ()
        pooled = masked_mean(text.whole.tokens, text.whole.mask)
        return queries, (self.text_proj(pooled.to(self.text_proj.weight.dtype)),)

    def encode_hidden(
        self,
        hidden: Sequence[Tensor],
        mask: Tensor | None,
        text: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Each layer as one vector [B, layer width], and what is read of the prompt."""
        queries, prompt = text
        layers = zip(self.poolers, self.compressors, hidden, queries, strict=True)
        return *(compress(pool(states, mask, q)) for pool, compress, states, q in layers), *prompt

    def embed_layout(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor | None:
        """What tells the actions of a chunk apart [N, width]; None without actions."""
        count = sum(len(group.roles) for group in groups if group.modality == "action")
        if not count:
            return None
        places = torch.arange(count, device=device)
        wave = sinusoid(places, FREQUENCIES).to(self.fused_proj.weight.dtype)
        return self.step(wave)

    def read(
        self,
        inputs: ModelInputs,
        groups: Sequence[TokenGroup],
        memory: tuple[Tensor, ...],
        levels: Any,
        layout: Tensor | None,
        call: Callable[..., Any],
    ) -> dict[str, Tensor]:
        fused = self._fuse(memory, inputs)[:, None]  # [B, 1, width]
        found = {}
        for part, decode in self.decoders.items():
            if getattr(inputs, part) is not None:
                y = fused + layout if part == "action" and layout is not None else fused
                found[part] = inputs.noisy(part).towards(decode(y))
        return found

    def _fuse(self, memory: tuple[Tensor, ...], inputs: ModelInputs) -> Tensor:
        """Fuse all features to one vector [B, width]."""
        pieces = list(memory)
        if self.state_proj is not None and inputs.state is not None:
            state = self.state_proj(inputs.state.to(self.state_proj.weight.dtype))
            pieces.insert(len(self.layers), state)
        fused: Tensor = self.fused_proj(self.fused_norm(torch.cat(pieces, 1)))
        for block in self.trunk:
            fused = fused + block(fused)
        return fused
