"""A backbone with residual adapters behind some of its blocks, its own weights untouched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from wamkit.acceleration.memo import Rungs

from wamkit.engine.attention import QKV, Block, told_of
from wamkit.interfaces import VideoBackbone
from wamkit.interfaces.types import Frames, Segment, Text


class CorrectedBlock(nn.Module):
    """A block whose output is corrected before anyone sees it."""

    def __init__(self, block: Block, adapter: nn.Module) -> None:
        super().__init__()
        self.block: Any = block
        self.adapter = adapter

    def project(self, x: Tensor, cond: Any) -> tuple[QKV, Any]:
        """As the block's."""
        return self.block.project(x, cond)  # type: ignore[no-any-return]

    def told(self, cond: Any) -> tuple[Any, ...]:
        """As the block's, if it has that."""
        return told_of(self.block, cond)

    def absorb(
        self, attended: Tensor, rest: Any, cond: Any, told: tuple[Any, ...] | None = None
    ) -> Tensor:
        """As the block's, plus what the adapter makes of it."""
        x = self.block.absorb(attended, rest, cond, *(told or ()))
        return x + self.adapter(x)  # type: ignore[no-any-return]


class Corrected:
    """A backbone some of whose blocks are corrected."""

    def __init__(self, backbone: VideoBackbone, blocks: Sequence[Block]) -> None:
        self.traits, self.attend, self.blocks = backbone.traits, backbone.attend, blocks
        self._backbone = backbone

    def embed(self, video: Frames, text: Text | None) -> tuple[Tensor, tuple[Segment, ...], Any]:
        """As the backbone's."""
        return self._backbone.embed(video, text)

    def place(self, sigma: Tensor, at: Tensor, text: Text, rungs: Rungs | None = None) -> Any:
        """As the backbone's."""
        return self._backbone.place(sigma, at, text, rungs)

    def unembed(self, x: Tensor, cond: Any) -> Tensor:
        """As the backbone's."""
        return self._backbone.unembed(x, cond)
