"""The action head `mot`: vectors to tokens of an expert, and its tokens to velocities."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from wamkit.config.parts import BackboneConfig, HeadContext
from wamkit.engine.layers import (
    Embedder,
    TextCond,
    axial_rotary,
    latent_times,
    sinusoid,
)
from wamkit.interfaces import Backbone, ExpertHead, Stack, append_state
from wamkit.interfaces.types import ModelInputs, Text, TokenGroup

from .blocks import FREQUENCIES, ConditionEmbedder, ExpertBlock, ExpertSigma, embed_sinusoid
from .decoders import DECODERS
from .interpolate import copy_from_backbone
from .tokens import groups

if TYPE_CHECKING:
    from . import Mot


def encoder(size: int, width: int, layers: int) -> nn.Module:
    """`layers` linear layers with SiLU between them."""
    first = nn.Linear(size, width)
    rest = [m for _ in range(layers - 1) for m in (nn.SiLU(), nn.Linear(width, width))]
    return nn.Sequential(first, *rest) if rest else first


def dtype_of(module: nn.Module) -> torch.dtype:
    """Dtype of the module's first weight."""
    return next(module.parameters()).dtype


class MotHead(ExpertHead, Stack):
    """`ExpertHead` that denoises vectors in a separate stack, for any backbone."""

    def __init__(self, config: Mot, sizes: HeadContext) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.layers = config.active_layers(sizes.traits)
        width, traits = config.width, sizes.traits
        for part in sizes.predicts:
            size = sizes.token_dim(part)
            self.add_module(f"{part}_encoder", encoder(size, width, config.encoder_layers))
            self.add_module(f"{part}_decoder", DECODERS[config.decoder](width, size))
        self.state_encoder: nn.Module | None = None
        if sizes.state and config.state != "none":
            goal = traits.text_width if config.state == "text" else width
            self.state_encoder = encoder(sizes.state, goal, config.encoder_layers)
        if config.registers:
            self.registers = nn.Parameter(0.02 * torch.randn(config.registers, width))
        self.condition_embedder: ConditionEmbedder | None = None
        self.level_embedder: Embedder | None = None
        self.expert: Any
        if config.block == "own":
            reads = config.text == "cross"
            self.condition_embedder = ConditionEmbedder(width, traits.text_width if reads else 0)
            self.expert = nn.ModuleList(
                ExpertBlock(width, config.mlp_dim, traits, text=reads, bias=config.bias)
                for _ in self.layers
            )
        else:
            self.expert = self._backbone().expert(width, config.mlp_dim)
            if config.decoder == "adaln":
                self.level_embedder = Embedder(FREQUENCIES, width, nn.SiLU())

    @property
    def keep_float32(self) -> tuple[str, ...]:
        """Modules that always run in float32; a copied block has its own list."""
        if self.config.block == "own":
            return "time_embedder", "scale_shift_table", "norm"
        theirs = getattr(self.expert, "keep_float32", ())
        inside = (rf"^expert\.{p[1:] if p.startswith('^') else f'.*(?:{p})'}" for p in theirs)
        return r"^level_embedder\.", r"_decoder\.scale_shift_table$", *inside

    def _backbone(self) -> BackboneConfig:
        """The backbone, with no more blocks than the expert is to have."""
        backbone, traits = self.sizes.backbone, self.sizes.traits
        if len(self.layers) == traits.depth:
            return backbone
        return backbone.resized(self.layers, traits.num_heads, traits.mlp_dim)

    @property
    def blocks(self) -> Sequence[Any]:  # type: ignore[override]
        stack = self.expert if self.config.block == "own" else self.expert.blocks
        found: list[Any] = [None] * self.sizes.traits.depth
        for layer, block in zip(self.layers, stack, strict=True):
            found[layer] = block
        return found

    def stack(self, backbone: Backbone) -> Stack:
        return self

    def embed_text(self, text: Text) -> TextCond | None:
        own = self.condition_embedder
        if own is None:
            return self.expert.embed_text(text)  # type: ignore[no-any-return]
        if own.text_embedder is None:
            return None
        dtype = own.time_proj.weight.dtype
        return TextCond(own.text_embedder(text.tokens.to(dtype)), text.attention_mask(dtype))

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None) -> Any:
        own = self.condition_embedder
        return (
            self.expert.embed_sigma(sigmas) if own is None else ExpertSigma(own.projection(sigmas))
        )

    def embed_positions(self, positions: Tensor) -> Any:
        """Rotary embedding of the index in the chunk; None unless `positions` is "rotary"."""
        if self.condition_embedder is None:
            return self.expert.embed_positions(positions)
        if self.config.positions != "rotary":
            return None
        return axial_rotary(positions[:, :1], (self.sizes.traits.head_dim,))

    def prepare(self, inputs: ModelInputs) -> ModelInputs:
        """The state as one more text token, read by video and action alike."""
        if self.config.state != "text" or self.state_encoder is None:
            return inputs
        return append_state(inputs, self.state_encoder)

    def token_groups(self, inputs: ModelInputs, known: Collection[str]) -> list[TokenGroup]:
        config = self.config
        return list(
            groups(
                inputs,
                known,
                chunk=self.sizes.chunk,
                state=config.state,
                registers=config.registers,
            )
        )

    def token_times(self, groups: Sequence[TokenGroup]) -> Sequence[float]:
        times, kind = super().token_times(groups), self.config.positions
        if kind == "rotary":
            return times
        if kind == "grid":
            return latent_times(times, self.sizes.chunk, self.sizes.frames)
        return [0.0] * len(times)

    def token_positions(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor:
        if self.config.positions != "rows":
            return super().token_positions(groups, device)
        places = [(self.config.plane, time, 0.0) for time in super().token_times(groups)]
        return torch.tensor(places, dtype=torch.float64, device=device)

    def embed_times(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor | None:
        if self.config.positions != "sinusoid":
            return None
        times = torch.tensor(super().token_times(groups), dtype=torch.float64, device=device)
        width = self.config.width  # the state before the chunk is the first, sines come first
        return sinusoid(times + 1, width).roll(width // 2, -1)

    def embed_levels(self, sigmas: Tensor) -> Tensor | None:
        if self.config.decoder == "linear":
            return None
        level = self._level_vector(sigmas)
        return self._decoder_modulation(level) if self.config.decoder == "modulated" else level

    def _level_vector(self, sigmas: Tensor) -> Tensor:
        """The vector of each noise level [R, D] that decoders read.

        By the embedder of own blocks, by one for decoders alone, or by that of the copied blocks.
        """
        own = self.condition_embedder
        embedder = self.level_embedder if own is None else own.time_embedder
        if embedder is None:
            return self.expert.embed_level(sigmas)  # type: ignore[no-any-return]
        return embed_sinusoid(embedder, sigmas)

    def _decoder_modulation(self, level: Tensor) -> Tensor:
        """Shift and 1 + scale of every decoder [R, parts, 2, D] float32."""
        parts = self.sizes.predicts
        rows = [self.get_submodule(f"{p}_decoder").modulation(level) for p in parts]  # type: ignore[operator]
        return torch.stack(rows, 1)

    def embed_tokens(self, group: TokenGroup, inputs: ModelInputs, level: Any) -> Tensor:
        if group.x is None:
            tokens = self.registers.to(dtype_of(self.get_submodule("action_encoder")))
            return tokens[None]
        encoder = getattr(self, f"{group.modality}_encoder")
        return encoder(group.x.to(dtype_of(encoder)))  # type: ignore[no-any-return]

    def decode_tokens(self, modality: str, x: Tensor, level: Any) -> Tensor:
        if self.config.decoder == "modulated":
            level = level[:, :, self.sizes.predicts.index(modality)]
        conditioning = () if level is None else (level,)
        return getattr(self, f"{modality}_decoder")(x, *conditioning)  # type: ignore[no-any-return]

    def initialize_from(self, backbone: Backbone) -> None:
        """With init = "from_backbone", take the backbone's weights.

        Raises WamkitError if none fit.
        """
        if self.config.init == "from_backbone" and self.config.weights is None:
            copy_from_backbone(self, backbone)
