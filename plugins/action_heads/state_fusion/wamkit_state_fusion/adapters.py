"""A backbone with residual adapters behind some of its blocks, its own weights untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wamkit.attention import QKV, Block
from wamkit.interfaces import VideoBackbone
from wamkit.types import Frames, Segment, Text


class CorrectedBlock:
    """A block whose output is corrected before anyone sees it."""

    def __init__(self, block: Block, adapter: nn.Module) -> None:
        self._block, self._adapter = block, adapter

    def project(self, x: Tensor, cond: Any) -> tuple[QKV, Any]:
        """As the block's."""
        return self._block.project(x, cond)

    def absorb(self, attended: Tensor, rest: Any, cond: Any) -> Tensor:
        """As the block's, plus what the adapter makes of it."""
        x = self._block.absorb(attended, rest, cond)
        return x + self._adapter(x)  # type: ignore[no-any-return]


class Corrected:
    """A backbone in which the blocks named in `adapters` are corrected; place -> adapter."""

    def __init__(self, backbone: VideoBackbone, adapters: Mapping[int, nn.Module]) -> None:
        self.traits, self.attend = backbone.traits, backbone.attend
        self._backbone, self._adapters = backbone, adapters

    @property
    def blocks(self) -> Sequence[Block]:
        """The backbone's, some of them corrected."""
        return [
            CorrectedBlock(block, self._adapters[i]) if i in self._adapters else block
            for i, block in enumerate(self._backbone.blocks)
        ]

    def embed(self, video: Frames, text: Text | None) -> tuple[Tensor, tuple[Segment, ...], Any]:
        """As the backbone's."""
        return self._backbone.embed(video, text)

    def place(self, sigma: Tensor, at: Tensor, text: Text) -> Any:
        """As the backbone's."""
        return self._backbone.place(sigma, at, text)

    def unembed(self, x: Tensor, cond: Any) -> Tensor:
        """As the backbone's."""
        return self._backbone.unembed(x, cond)
