"""A backbone whose noise levels are embedded by weights of the head's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from wamkit.interfaces import Backbone, Stack, WrappedBackbone


class OwnLevels(WrappedBackbone):
    """The stack of tokens that pass the backbone's blocks at levels of their own embedding."""

    def __init__(self, backbone: Backbone, embedder: nn.Module) -> None:
        super().__init__(backbone)
        self.__dict__["embedder"] = embedder

    embedder: Any

    @property
    def text_stack(self) -> Stack:
        """The backbone: its blocks read the prompt as the frames do."""
        return self.inner

    def embed_sigma(self, sigmas: Tensor, pooled: Tensor | None = None, **view: Tensor) -> Any:
        """As the backbone's, with the head's weights."""
        return self.embedder.embed_sigma(sigmas, pooled, **view)
