"""The `shared_stream` action head: actions pass through the backbone's own blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    system_options = ("channel_map", "channels")

    name: Literal["shared_stream"] = "shared_stream"
    embedder: Literal["mlp_sinusoid", "linear"] = "mlp_sinusoid"
    """`mlp_sinusoid` mixes a sinusoid of the noise level into each token, and decodes with two
    layers (DreamZero); `linear` is one layer for either (LingBot-VA)."""
    positions: Literal["grid", "index", "after", "line", "sinusoid"] | None = None
    """Where tokens stand in time: at the latent frames they lead to (`grid`: LingBot-VA), counted
    from the beginning (`index`), counted on after the last frame (`after`), on a line of their own
    that turns the whole of a head, where actions are counted one by one and states chunk by chunk
    (`line`: DreamZero), or nowhere, with a sinusoid added (`sinusoid`). Left open, `grid`, or
    `sinusoid` where the backbone has no time."""
    sine_first: bool = False
    """Whether sines come before cosines in the sinusoid of a noise level (DreamZero)."""
    hidden_width: int | None = Field(None, gt=0)
    """Width between the two layers of state encoder and decoders; the backbone's if left open.
    DreamZero: 1024."""
    action_slots: int | None = Field(None, gt=0)
    """Values that the action's encoder and decoder have, at least as many as the robot's; the rest
    is padding, which is denoised from noise to nothing, and no loss counts it. DreamZero: 32."""
    state_slots: int | None = Field(None, gt=0)
    """Values that the state's encoder reads, zeros behind the robot's. DreamZero: 64."""
    state: Literal["token", "none"] = "token"
    """Whether the robot's state is a token before the actions, without noise."""
    text: Literal["backbone", "stream"] | None = None
    """How the prompt is read: as the backbone reads it, or as text tokens that pass the blocks
    with the actions (`stream`). By default `stream` where the backbone reads none."""
    levels: Literal["backbone", "own"] = "backbone"
    """Which embedder of noise levels conditions the tokens in the blocks: that of the frames, or a
    second one with weights of its own (`own`: LingBot-VA)."""
    final_layer: Literal["norm", "final_norm", "none"] = "norm"
    """The norm of final tokens before they are decoded: one with weights of the head's own
    (`norm`), that of the frames, modulated by the noise level (`final_norm`: LingBot-VA), or none
    (DreamZero)."""
    channels: int | None = Field(None, gt=0)
    """Channels of the network's actions, where it has one for every value of every robot
    (LingBot-VA: 30); left open, as many as the action has values."""
    channel_map: tuple[Annotated[int, Field(ge=0)], ...] = ()
    """For `channels`: the channel of each value of an action, in the robot's order. The others are
    zero in the input, and are not read from the output."""
    embodiments: int = Field(1, gt=0)
    """Robots that the head has encoders and decoders for, each with weights of its own."""
    embodiment: int = Field(0, ge=0)
    """The robot that this policy is for, counted from 0; the weights of the others are unused."""

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
        for name, slots, size in (
            ("actions", self.action_slots, spec.actions.size),
            ("state", self.state_slots, spec.state.size),
        ):
            if slots is not None and slots < size:
                key = f"action_head.{name.removesuffix('s')}_slots"
                yield Conflict(
                    between=(key, name),
                    why=f"{size} values do not fit into {slots}",
                    hint=f"set {key} = {size} or more, or leave it out",
                )
        if self.positions == "line" and not traits.line_positions:
            yield Conflict(
                between=("action_head.positions", "backbone"),
                why=f"the blocks of {spec.backbone.name} cannot place tokens on a line of its own",
                hint='set action_head.positions = "grid"',
            )
        if self.state == "none" and spec.state.size:
            yield Conflict(
                between=("action_head.state", "state.size"),
                why=f"the policy is given a state of {spec.state.size} values that nothing reads",
                hint='set action_head.state = "token", or state.size = 0',
            )
        yield from self._unread_options(spec)
        yield from self._channel_conflicts(spec)
        if self.final_layer == "final_norm" and self.embedder != "linear":
            yield Conflict(
                between=("action_head.final_layer", "action_head.embedder"),
                why="final_norm reads the levels of the blocks, and mlp_sinusoid has its own",
                hint='set action_head.embedder = "linear", or action_head.final_layer = "norm"',
            )
        for key, option, ability, why in (
            ("levels", "own", traits.level_embedder, "makes no second embedder of noise levels"),
            ("final_layer", "final_norm", traits.final_norm, "has no modulated norm of its own"),
        ):
            if getattr(self, key) == option and not ability:
                default = type(self).model_fields[key].default
                yield Conflict(
                    between=(f"action_head.{key}", "backbone"),
                    why=f"{spec.backbone.name} {why}",
                    hint=f'set action_head.{key} = "{default}"',
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

    def _unread_options(self, spec: PolicySpec) -> Iterator[Conflict]:
        """Options that are written and that nothing would read."""
        of_two_layers = {
            "hidden_width": self.hidden_width is not None,
            "sine_first": self.sine_first,
        }
        written = [f"action_head.{key}" for key, is_written in of_two_layers.items() if is_written]
        if written and self.embedder == "linear":
            yield Conflict(
                between=(*written, "action_head.embedder"),
                why="a linear embedder has one layer, and reads no noise level",
                hint=f"leave {' and '.join(written)} out, or set "
                'action_head.embedder = "mlp_sinusoid"',
            )
        if self.state_slots is not None and (self.state == "none" or not spec.state.size):
            yield Conflict(
                between=("action_head.state_slots", "state.size"),
                why="slots for the values of a state, and no token has a state",
                hint="leave action_head.state_slots out",
            )

    def _channel_conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        given, size = self.channel_map, spec.actions.size
        if self.channels is not None and self.action_slots is not None:
            yield Conflict(
                between=("action_head.channels", "action_head.action_slots"),
                why="both say how many values the network's actions have",
                hint="leave one of them out",
            )
        if self.channels is None and not given:
            return
        why = None
        if self.channels is None:
            why = "a channel_map, and channels does not say how many channels there are"
        elif len(given) != size:
            why = f"{len(given)} channels for the {size} values of an action"
        elif len(set(given)) < len(given):
            why = "two values of an action have the same channel"
        elif max(given) >= self.channels:
            why = f"channel {max(given)} of {self.channels}, counted from 0"
        if why is not None:
            yield Conflict(
                between=("action_head.channel_map", "actions.groups"),
                why=why,
                hint="name one channel for each value of an action, in the order of "
                "actions.groups, and write their number as action_head.channels",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self, sizes: HeadContext) -> Any:
        from .head import SharedStreamHead

        return self.materialize(lambda: SharedStreamHead(self, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(SharedStream)
