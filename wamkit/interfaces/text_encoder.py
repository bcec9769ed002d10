"""The text encoder interface: prompts to embeddings, with a fingerprint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from .types import Text


@runtime_checkable
class TextEncoder(Protocol):
    """An instruction encoder, as an `nn.Module`."""

    width: int
    trainable: bool
    """True if it learns with the policy; embeddings of the others are cached by prompt."""

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to embeddings [B, L, width] and the tokens that attention may look at.

        What becomes of padding is a stated policy of the encoder, never left to the caller.
        """

    def fingerprint(self) -> str:
        """Changes whenever an embedding would: model, weights, template, length, padding."""
