"""The action head `shared_stream`: vectors become tokens of the backbone, and come back.

    video tokens  ------+--blocks of the backbone--+------> frames
    [text] state a a a -+                          +------> actions

Source: LingBot-VA (`wan_va/modules/model.py` in github.com/robbyant/lingbot-va) and DreamZero
(`groot/vla/model/dreamzero/modules` in github.com/dreamzero0/dreamzero).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wamkit.config.parts import HeadContext
from wamkit.engine.layers import constant, latent_times, sinusoid
from wamkit.interfaces import Backbone, ExpertHead, Stack, WrapperCache
from wamkit.interfaces.types import CLEAN, ModelInputs, TokenGroup

from .embedders import Decoder, Linear, NoisyEmbedder, Perceptron
from .levels import OwnLevels

if TYPE_CHECKING:
    from . import SharedStream


class SharedStreamHead(ExpertHead):
    """`ExpertHead` whose tokens pass the backbone's own blocks."""

    keep_float32 = ("norm",)

    def __init__(self, config: SharedStream, sizes: HeadContext) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        width, robots = sizes.traits.width, (config.embodiments, config.embodiment)
        deep, norm = config.embedder == "mlp_sinusoid", config.final_layer == "norm"
        hidden = config.hidden_width or width
        for part in sizes.predicts:
            channels = config.channels if part == "action" else None
            size = channels or self._slots(part)
            embedder = (NoisyEmbedder if deep else Linear)(size, width, robots)
            decoder = Decoder(width, size, robots, hidden=hidden if deep else None, norm=norm)
            self.add_module(f"{part}_embedder", embedder)
            self.add_module(f"{part}_decoder", decoder)
        self.level_embedder: nn.Module | None = None
        self._stacks: WrapperCache[OwnLevels] = WrapperCache()
        if config.levels == "own":
            self.level_embedder = sizes.backbone.level_embedder()
            exact = getattr(self.level_embedder, "keep_float32", ())
            self.keep_float32 = (*SharedStreamHead.keep_float32, *exact)
        if sizes.state and config.state == "token":
            size = self._slots("state")
            self.state_embedder = (
                Perceptron(size, hidden, width, robots) if deep else Linear(size, width, robots)
            )
        self.text_embedder: nn.Linear | None = None
        if config.text == "stream":
            self.text_embedder = nn.Linear(sizes.traits.text_width, width)

    def initialize_from(self, backbone: Backbone) -> None:
        """Begin with a copy of the backbone's embedder of noise levels, if no weights are named."""
        super().initialize_from(backbone)
        if self.level_embedder is not None and self.config.weights is None:
            known = backbone.state_dict()
            ours = {name: known[name].clone() for name in self.level_embedder.state_dict()}
            self.level_embedder.load_state_dict(ours)

    def _slots(self, part: str) -> int:
        """Values that the encoder and the decoder of a modality have."""
        return self._given_slots(part) or self.sizes.token_dim(part)

    def _given_slots(self, part: str) -> int | None:
        """The same where the configuration says."""
        return {"action": self.config.action_slots, "state": self.config.state_slots}.get(part)

    def to_latent(self, modality: str, x: Tensor) -> Tensor:
        """Vectors [B, N, A] with zeros behind them [B, N, slots]."""
        slots = self._given_slots(modality)
        return x if slots in (None, x.shape[-1]) else F.pad(x, (0, slots - x.shape[-1]))

    def from_latent(self, modality: str, x: Tensor) -> Tensor:
        given = self._given_slots(modality)
        return x if given is None else x[..., : self.sizes.token_dim(modality)]

    def stack(self, backbone: Backbone) -> Stack:
        if self.level_embedder is None:
            return backbone
        return self._stacks.get_or_wrap(OwnLevels, backbone, self.level_embedder)

    def token_groups(self, inputs: ModelInputs, known: Collection[str]) -> list[TokenGroup]:
        """Text, state and actions; next state and value come after their chunk."""
        found = []
        if self.text_embedder is not None and "text" not in known and inputs.text.length:
            text, length = inputs.text.whole, inputs.text.length
            roles, times = ("text",) * length, (0.0,) * length
            found.append(TokenGroup("text", text.tokens, CLEAN, roles, times, text.mask))
        for group in inputs.groups(known):
            if group.modality == "state":
                if self.config.state == "token":
                    found.append(group)
            elif group.modality == "action" or inputs.noisy(group.modality).times is not None:
                found.append(group)
            else:
                later = tuple(time + self.sizes.chunk for time in group.times)
                found.append(group._replace(times=later))
        return found

    def token_times(self, groups: Sequence[TokenGroup]) -> Sequence[float]:
        """Text, which knows its order already, stands at the beginning."""
        return [
            time
            for group in groups
            for time in (group.times if group.modality == "text" else self._times(group.times))
        ]

    def _times(self, places: tuple[float, ...]) -> tuple[float, ...]:
        """Places on the axis of actions as times of latent frames."""
        kind, frames = self.config.positions, self.sizes.frames
        if kind == "sinusoid":
            return (0.0,) * len(places)
        if kind == "index":
            return places
        if kind == "after":  # the state stands where the next frame would
            return tuple(place + sum(frames) + 1 for place in places)
        return latent_times(places, self.sizes.chunk, frames)

    def place_tokens(self, stack: Stack, groups: Sequence[TokenGroup], device: torch.device) -> Any:
        """On a line of their own, actions one by one and states chunk by chunk; or in time."""
        if self.config.positions != "line":
            return super().place_tokens(stack, groups, device)
        places: list[float] = []
        for group in groups:
            is_state = group.modality == "state"  # one place before the first action of its chunk
            places += [(time + 1) / self.sizes.chunk if is_state else time for time in group.times]
        return stack.embed_line(torch.tensor(places, dtype=torch.float64, device=device))

    def embed_times(self, groups: Sequence[TokenGroup], device: torch.device) -> Tensor | None:
        if self.config.positions != "sinusoid":
            return None
        own = [time for group in groups if group.modality != "text" for time in group.times]
        count = sum(len(group.roles) for group in groups) - len(own)  # text tokens come first
        times = torch.tensor(own, dtype=torch.float64, device=device)
        return F.pad(sinusoid(times + 1, self.sizes.traits.width), (0, 0, count, 0))

    def embed_levels(self, sigmas: Tensor) -> Tensor | None:
        if self.config.embedder != "mlp_sinusoid":
            return None
        waves = sinusoid(1000 * sigmas, self.sizes.traits.width)
        return torch.cat(waves.chunk(2, -1)[::-1], -1) if self.config.sine_first else waves

    def final_levels(
        self, stack: Stack, sigmas: Tensor, embed_sigmas: Callable[[], Any]
    ) -> Tensor | None:
        if self.config.final_layer != "final_norm":
            return self.embed_levels(sigmas)
        assert isinstance(stack, Backbone)
        return stack.final_modulation(embed_sigmas())

    def final_norm(self, backbone: Backbone, x: Tensor, level: Any) -> Tensor:
        return x if self.config.final_layer != "final_norm" else backbone.final_norm(x, level)

    def embed_tokens(self, group: TokenGroup, inputs: ModelInputs, level: Any) -> Tensor:
        embedder = self.get_submodule(f"{group.modality}_embedder")
        assert group.x is not None
        x = group.x.to(next(embedder.parameters()).dtype)
        if group.modality == "state":  # the others are latent already
            x = self.to_latent("state", x)
        if group.modality == "action" and self.config.channels is not None:
            zeros = x.new_zeros(*x.shape[:-1], self.config.channels)
            x = zeros.index_copy(-1, self._channels(x.device), x)
        given = (level,) if isinstance(embedder, NoisyEmbedder) else ()
        return embedder(x, *given)

    def decode_tokens(self, modality: str, x: Tensor, level: Any) -> Tensor:
        found: Tensor = self.get_submodule(f"{modality}_decoder")(x)
        if modality != "action" or self.config.channels is None:
            return found
        return found.index_select(-1, self._channels(x.device))

    def _channels(self, device: torch.device) -> Tensor:
        """The channel of each value of an action [A]."""
        return constant(self.config.channel_map, torch.long, device)
