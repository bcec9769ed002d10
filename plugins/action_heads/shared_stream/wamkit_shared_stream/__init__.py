"""The `shared_stream` action head: actions pass through the backbone's own blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import ActionHeadConfig, Conflict, HeadContext, Part

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class SharedStream(ActionHeadConfig):
    """Actions and state as more tokens of the backbone; only encoders and decoders are the head's.

    DreamZero (arXiv 2602.15922) and the released model of LingBot-VA (arXiv 2601.21998). The tokens
    are conditioned as those of frames are: by noise levels of their own, positions on the
    backbone's axes, and the prompt as its frames read it. Image backbones have an axis of images in
    place of time. A vision encoder reads no noise level, time or text: then the embedder encodes
    the level, a sinusoid the order, and text passes the blocks as tokens too.
    """

    source = "https://github.com/dreamzero0/dreamzero and https://github.com/robbyant/lingbot-va"
    uses_backbone_blocks = True

    name: Literal["shared_stream"] = "shared_stream"
    embedder: Literal["mlp_sinusoid", "linear"] = "mlp_sinusoid"
    """`mlp_sinusoid` mixes a sinusoid of the noise level into each token, and decodes with two
    layers (DreamZero); `linear` is one layer for either (LingBot-VA)."""
    positions: Literal["grid", "index", "after", "sinusoid"] | None = None
    """Where tokens stand in time: at the latent frames they lead to (`grid`: LingBot-VA), counted
    from the beginning (`index`: DreamZero's order, on the backbone's axis), counted on after the
    last frame (`after`), or nowhere, with a sinusoid added (`sinusoid`). Left open, `grid`, or
    `sinusoid` where the backbone has no time."""
    state: Literal["token", "none"] = "token"
    """Whether the robot's state is a token before the actions, without noise."""
    text: Literal["backbone", "stream"] | None = None
    """How the prompt is read: as the backbone reads it, or as text tokens that pass the blocks
    with the actions (`stream`). By default `stream` where the backbone reads none."""
    embodiments: int = Field(1, gt=0)
    """Robots that the head has encoders and decoders for, each with weights of its own."""
    embodiment: int = Field(0, ge=0)
    """The robot that this policy is for, counted from 0; the weights of the others rest."""

    @property
    def reads_text(self) -> bool:
        return self.text == "stream"

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        state = {"state": 1} if self.state == "token" and sizes.state else {}
        others = {part: 1 for part in sizes.predicts if part != "action"}
        return {**state, "action": sizes.chunk, **others}

    def tiny(self) -> SharedStream:
        return self.model_copy(update={"weights": None})

    def resolve(self, spec: PolicySpec) -> SharedStream:
        traits = spec.backbone.traits
        return self.model_copy(
            update={
                "positions": self.positions or ("grid" if traits.imagines else "sinusoid"),
                "text": self.text or ("stream" if traits.text == "none" else "backbone"),
            }
        )

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        traits = spec.backbone.traits
        if self.embodiment >= self.embodiments:
            yield Conflict(
                between=("action_head.embodiment", "action_head.embodiments"),
                why=f"embodiment {self.embodiment} of {self.embodiments}, counted from 0",
                hint=f"set action_head.embodiments = {self.embodiment + 1} or more",
            )
        if self.state == "none" and spec.state.size:
            yield Conflict(
                between=("action_head.state", "state.size"),
                why=f"the policy is given a state of {spec.state.size} values that nothing reads",
                hint='set action_head.state = "token", or state.size = 0',
            )
        if self.text == "stream" and traits.text == "stream":
            yield Conflict(
                between=("action_head.text", "backbone"),
                why="the backbone has text tokens in its stream already",
                hint='set action_head.text = "backbone"',
            )
        if not traits.imagines and self.embedder == "linear":
            yield Conflict(
                between=("action_head.embedder", "backbone"),
                why="the backbone's blocks read no noise level, and neither does a linear embedder",
                hint='set action_head.embedder = "mlp_sinusoid"',
            )
        if not traits.imagines and self.positions in ("grid", "index", "after"):
            yield Conflict(
                between=("action_head.positions", "backbone"),
                why="the backbone's blocks know no time, so that actions would have no order",
                hint='set action_head.positions = "sinusoid"',
            )

    def build(self, sizes: HeadContext) -> Any:
        from .head import SharedStreamHead

        return self.materialize(lambda: SharedStreamHead(self, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(SharedStream)
