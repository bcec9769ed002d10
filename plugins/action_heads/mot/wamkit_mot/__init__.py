"""The `mot` action head: an action expert beside the video, joined by shared attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.hooks import hookimpl
from wamkit.parts import ActionHeadConfig, Conflict, Part, Sizes

if TYPE_CHECKING:
    from wamkit.spec import PolicySpec


class Mot(ActionHeadConfig):
    """An action expert with weights of its own that shares attention with the video.

    Mixture-of-Transformers as in Fast-WAM (arXiv 2603.16666): queries, keys and values live in the
    backbone's head space, whatever the width of the expert.
    """

    source = "https://github.com/yuantianyuan01/FastWAM"

    name: Literal["mot"] = "mot"
    width: int = Field(1024, gt=0)
    """Size of an action token."""
    feed_forward: int = Field(4096, gt=0)
    every: int = Field(1, gt=0)
    """The expert has a block at every so many of the backbone's; it rests at the others."""
    state: Literal["text", "token", "none"] = "text"
    """Where the robot's state enters: as one more word that video and action read (`text`), as a
    token before the actions (`token`), or not at all."""
    text: Literal["cross", "none"] = "cross"
    """Whether the expert reads the instruction by cross-attention of its own."""
    init: Literal["random", "video"] = "random"
    """`video` starts from the backbone's weights, interpolated to the expert's size."""

    @property
    def reads_text(self) -> bool:
        return self.text == "cross"

    def tokens(self, sizes: Sizes) -> dict[str, int]:
        state = {"state": 1} if self.state == "token" and sizes.state else {}
        return {**state, "action": sizes.chunk}

    def tiny(self) -> Mot:
        return self.model_copy(update={"width": 32, "feed_forward": 64, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        traits = spec.backbone.traits
        if self.every > traits.depth:
            yield Conflict(
                between=("action_head.every", "backbone"),
                why=f"an expert block at every {self.every}th layer, and the backbone has "
                f"{traits.depth}",
                hint=f"set action_head.every to at most {traits.depth}",
            )
        if self.state == "none" and spec.state.size:
            yield Conflict(
                between=("action_head.state", "state.size"),
                why=f"the policy is given a state of {spec.state.size} numbers that nothing reads",
                hint='set action_head.state = "text" or "token", or state.size = 0',
            )
        if traits.head_size % 2:
            yield Conflict(
                between=("action_head", "backbone"),
                why=f"rotary positions need an even head size, the backbone's is "
                f"{traits.head_size}",
                hint="choose another backbone",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import DIALECTS

        return DIALECTS

    def build(self, sizes: Sizes) -> Any:
        from wamkit.weights import materialize

        from .head import MotHead

        return materialize(lambda: MotHead(self, sizes), self.weights, dialects=self.layouts())


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    add(Mot)
