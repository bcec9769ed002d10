"""A backbone with residual adapters behind some of its blocks, its own weights untouched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from wamkit.engine.layers import QKV, TextCond, TextKV
from wamkit.interfaces import Backbone, WrappedBackbone


class CorrectedBlock(nn.Module):
    """A block whose output passes an adapter."""

    def __init__(self, block: Any, adapter: nn.Module) -> None:
        super().__init__()
        self.block, self.adapter = block, adapter

    def modulation(self, sigma: Any) -> Tensor | None:
        """As the block's."""
        return self.block.modulation(sigma)

    def text_kv(self, text: TextCond) -> TextKV | None:
        """As the block's."""
        return self.block.text_kv(text)

    def pre_attention(self, x: Tensor, modulation: Any, rotary: Any) -> tuple[QKV, tuple[Any, ...]]:
        """As the block's."""
        return self.block.pre_attention(x, modulation, rotary)

    def post_attention(
        self, attended: Tensor, carry: tuple[Any, ...], modulation: Any, text_kv: TextKV | None
    ) -> Tensor:
        """As the block's, plus the output of the adapter."""
        x = self.block.post_attention(attended, carry, modulation, text_kv)
        return x + self.adapter(x)


class CorrectedBackbone(WrappedBackbone):
    """A backbone some of whose blocks are corrected, for frames and text tokens alike."""

    def __init__(self, backbone: Backbone, adapters: Mapping[int, nn.Module]) -> None:
        super().__init__(backbone)
        self.__dict__["adapters"] = dict(adapters)  # no submodules: weights stay with the head
        self.__dict__["_made"] = {}

    adapters: dict[int, nn.Module]
    _made: dict[tuple[int, bool], CorrectedBlock]

    @property
    def blocks(self) -> Sequence[Any]:  # type: ignore[override]
        return self._with_adapters(self.inner.blocks, text=False)

    @property
    def text_blocks(self) -> Sequence[Any]:  # type: ignore[override]
        blocks = self.inner.text_blocks
        return self._with_adapters(blocks, text=True)

    def _with_adapters(self, blocks: Sequence[Any], *, text: bool) -> list[Any]:
        """The blocks with adapters behind some; the same objects for the same blocks."""
        found = list(blocks)
        for layer, adapter in self.adapters.items():
            block, made = found[layer], self._made.get((layer, text))
            if block is not None and (made is None or made.block is not block):
                made = self._made[layer, text] = CorrectedBlock(block, adapter)
            found[layer] = None if block is None else made
        return found
