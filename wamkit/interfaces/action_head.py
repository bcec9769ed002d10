"""Three ways for an action head to join a backbone; each is one method, `join`.

ExpertHead   shared attention   a separate token stream with its own blocks
ReaderHead   hidden states      it reads the video's layers; the video never attends to it
SlotHead     latent slots       vectors are written into extra latent frames
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence

import torch
from torch import Tensor, nn

from ..config.visibility import LayerVisibility
from ..engine.kv_cache import KVCache
from ..engine.passes import PassRunner
from .backbone import Backbone
from .types import ModelInputs, ModelOutput


class ActionHead(nn.Module, ABC):
    """Predicts the velocity of an action chunk, and of other modalities, with a backbone."""

    @abstractmethod
    def join(
        self,
        runner: PassRunner,
        backbone: Backbone,
        inputs: ModelInputs,
        sees: LayerVisibility,
        cache: KVCache | None = None,
        keep: Collection[str] = (),
    ) -> ModelOutput:
        """One forward pass of backbone and head over `inputs` and `cache`.

        If `keep` covers every role this is a prefill: only the KV cache is returned.
        """

    def initialize_from(self, backbone: Backbone) -> None:
        """Initialize weights from the backbone; by default none."""

    def prepare(self, inputs: ModelInputs) -> ModelInputs:
        """Prepare the inputs for the head, once per chunk or sample, before any pass.

        For example with the state behind the prompt (`Text.append`).
        """
        return inputs

    def to_latent(self, modality: str, x: Tensor) -> Tensor:
        """Encode vectors [B, N, A] to the form that noise is added to; by default unchanged."""
        return x

    def from_latent(self, modality: str, x: Tensor) -> Tensor:
        """Decode the output of `to_latent` to vectors [B, N, A]."""
        return x


def is_prefill(inputs: ModelInputs, keep: Collection[str]) -> bool:
    """True if a pass only fills the KV cache."""
    return bool(keep) and inputs.roles - {"text", "state"} <= set(keep)


def append_state(inputs: ModelInputs, encoder: nn.Module) -> ModelInputs:
    """Append the state, if there is one, as a text token."""
    if inputs.state is None:
        return inputs
    dtype = next(encoder.parameters()).dtype
    return inputs.with_(text=inputs.text.append(encoder(inputs.state.to(dtype))[:, None]))


def cat_tokens(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate tokens [B, n, ...]."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), 1)
