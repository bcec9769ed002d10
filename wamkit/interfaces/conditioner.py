"""The conditioner interface: an image or a prompt to the embeddings that some backbones take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor


class Conditioner(Protocol):
    """An `nn.Module` that computes `Text.cond_embeds`."""

    reads: Literal["image", "text"]

    def __call__(self, prompts: Sequence[str], image: Tensor | None) -> Tensor:
        """Embed B prompts, or images [B, 3, height, width] in [-1, 1]: [B, L', width].

        `reads` selects the input that is used; the other may be empty.
        """
