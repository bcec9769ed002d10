"""What configurations of heads that read the backbone's layers have in common."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

from .parts import ActionHeadConfig, Conflict

if TYPE_CHECKING:
    from .spec import PolicySpec

Layers = tuple[int, ...] | Literal["all"]
"""Places in a stack, counted from 0, or backwards from -1."""


class ReaderConfig(ActionHeadConfig):
    """A head that reads hidden states of the backbone and exposes no tokens."""

    exposes_tokens: ClassVar[bool] = False

    layers: Layers | None = None
    """Blocks whose outputs are read, from 0, or backwards from -1; "all" of them; left open, those
    that the head was published with, at the same height of the stack."""

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        """Layers that the backbone of `spec` does not have; none if all are there."""
        depth = spec.backbone.traits.depth
        if self.layers is None or self.layers == "all":
            return
        wrong = [layer for layer in self.layers if not -depth <= layer < depth]
        if wrong or not self.layers:
            yield Conflict(
                between=("action_head.layers", "backbone"),
                why=f"found layers {list(wrong or self.layers)}, and {spec.backbone.name} has "
                f"layers 0 to {depth - 1}",
                hint=f"name layers from 0 to {depth - 1}, or from -1 to -{depth} backwards, or "
                'set action_head.layers = "all"',
            )


def places(layers: Layers, depth: int) -> tuple[int, ...]:
    """Where `layers` are in a stack of `depth` blocks, counted from 0."""
    if layers == "all":
        return tuple(range(depth))
    return tuple(layer % depth for layer in layers)


def unread_state(state: str, spec: PolicySpec) -> Iterator[Conflict]:
    """A conflict if the policy is given a state and `state`, the head's option, is "none"."""
    if state == "none" and spec.state.size:
        yield Conflict(
            between=("action_head.state", "state.size"),
            why=f"the policy is given a state of {spec.state.size} values that nothing reads",
            hint='set action_head.state = "text", or state.size = 0',
        )
