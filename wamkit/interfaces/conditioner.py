"""The conditioner interface: an image or a prompt to the embeddings that some backbones take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from torch import Tensor


class Conditioner(Protocol):
    """What makes `Text.cond_embeds`, as an `nn.Module`."""

    reads: Literal["image", "text"]

    def __call__(self, prompts: Sequence[str], image: Tensor | None) -> Tensor:
        """B prompts and images [B, 3, height, width] in [-1, 1] to [B, L', cond_embeds_width].

        One of the two is looked at, as `reads` says; the other may be empty.
        """
