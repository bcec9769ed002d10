"""The `mot` action head: an action expert that shares attention with the video."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import ActionHeadConfig, Conflict, HeadContext, Part, Traits

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class Mot(ActionHeadConfig):
    """An action expert with weights of its own that shares attention with the video.

    Mixture-of-Transformers as in Fast-WAM (arXiv 2603.16666): queries, keys and values live in the
    backbone's head space, for any width of the expert.
    """

    source = "https://github.com/yuantianyuan01/FastWAM"

    name: Literal["mot"] = "mot"
    width: int = Field(1024, gt=0)
    """Size of an action token."""
    mlp_dim: int = Field(4096, gt=0)
    block: Literal["own", "backbone"] = "own"
    """`own` is Fast-WAM's block, the same for any backbone; `backbone` a narrower copy of the
    backbone's own, as ImageWAM and fastwam-ltx have it."""
    layer_stride: int = Field(1, gt=0)
    """The expert has a block at every `layer_stride`-th layer of the backbone; it skips the
    others."""
    layers: tuple[int, ...] | None = None
    """The layers at which the expert has a block, counted from 0, in place of `layer_stride`."""
    state: Literal["text", "token", "noisy_token", "none"] = "text"
    """Where the robot's state enters: as one more text token that video and action read (`text`),
    as a token of its own before the actions (`token`: without noise, so that it can be remembered),
    as one of the action's tokens at the action's noise level (`noisy_token`: Efficient-WAM), or not
    at all."""
    registers: int = Field(0, ge=0)
    """Learned tokens after the actions of a chunk, of their role and noise level."""
    text: Literal["cross", "none"] = "cross"
    """Whether own blocks read the instruction by cross-attention of their own."""
    positions: Literal["rotary", "grid", "rows", "sinusoid", "none"] = "rotary"
    """How a token knows its place in the chunk: queries and keys turned by its index (`rotary`; in
    the backbone's blocks the index is a time), turned by the time on the backbone's grid that it
    falls into (`grid`), turned as a row of an image of its own (`rows`: the index is the row, in
    column 0), a fixed sinusoid of the index added to it (`sinusoid`), or not at all."""
    plane: float = 2.0
    """With `positions = "rows"`: where that image stands on the backbone's first axis, which is
    time or the number of an image."""
    bias: bool = True
    """Whether projections to and from the heads of own blocks have a bias."""
    encoder_layers: int = Field(1, gt=0)
    """Linear layers from a number to its token, SiLU between them."""
    decoder: Literal["linear", "adaln", "modulated"] = "linear"
    """`adaln` norms, scales and shifts by the noise level first, and begins with zeros.
    `modulated` does so by shifts and scales projected from the vector of the noise level that the
    blocks are modulated by, and has no biases (ImageWAM)."""
    init: Literal["random", "from_backbone"] = "random"
    """`from_backbone` starts from the backbone's weights, interpolated to the expert's size."""

    @property
    def reads_text(self) -> bool:
        return self.block == "own" and self.text == "cross"

    def active_layers(self, traits: Traits) -> tuple[int, ...]:
        """The layers at which the expert has a block."""
        if self.layers is not None:
            return self.layers
        return tuple(range(0, traits.depth, self.layer_stride))

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        clean = {"state": 1} if self.state == "token" and sizes.state else {}
        state_tokens = 1 if self.state == "noisy_token" and sizes.state else 0
        others = {part: 1 for part in sizes.predicts if part != "action"}
        return {**clean, "action": state_tokens + sizes.chunk + self.registers, **others}

    def tiny(self) -> Mot:
        small = {"width": 32, "mlp_dim": 64, "layer_stride": min(self.layer_stride, 2)}
        return self.model_copy(update={**small, "layers": None, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        traits = spec.backbone.traits
        yield from self._conflicts_of_layers(traits)
        if self.block == "own":
            yield from self._conflicts_of_own_blocks(traits)
        else:
            yield from self._conflicts_of_backbone_blocks(traits)
        if self.positions == "sinusoid" and self.width % 2:
            yield Conflict(
                between=("action_head.positions", "action_head.width"),
                why=f"a sinusoid has as many sines as cosines, and the width is {self.width}",
                hint=f"set action_head.width = {self.width + 1}",
            )
        if self.plane != 2.0 and self.positions != "rows":
            yield Conflict(
                between=("action_head.plane", "action_head.positions"),
                why="plane says where an image of tokens stands, and they are no image",
                hint='leave action_head.plane out, or set action_head.positions = "rows"',
            )
        if self.state == "none" and spec.state.size:
            yield Conflict(
                between=("action_head.state", "state.size"),
                why=f"the policy is given a state of {spec.state.size} values that nothing reads",
                hint='set action_head.state = "text" or "token", or state.size = 0',
            )

    def _conflicts_of_layers(self, traits: Traits) -> Iterator[Conflict]:
        if self.layer_stride > traits.depth:
            yield Conflict(
                between=("action_head.layer_stride", "backbone"),
                why=f"an expert block at every {self.layer_stride}th layer, and the backbone has "
                f"{traits.depth}",
                hint=f"set action_head.layer_stride to at most {traits.depth}",
            )
        if self.layers is None:
            return
        if self.layer_stride != 1:
            yield Conflict(
                between=("action_head.layers", "action_head.layer_stride"),
                why="both set the layers at which the expert has a block",
                hint="leave one of them out",
            )
        ascending = all(a < b for a, b in pairwise(self.layers))
        if (
            not self.layers
            or not ascending
            or self.layers[0] < 0
            or self.layers[-1] >= traits.depth
        ):
            yield Conflict(
                between=("action_head.layers", "backbone"),
                why=f"found layers {list(self.layers)}, expected places in a stack of "
                f"{traits.depth}, ascending",
                hint=f"name each layer once, from 0 to {traits.depth - 1}",
            )

    def _conflicts_of_own_blocks(self, traits: Traits) -> Iterator[Conflict]:
        if self.positions in ("grid", "rows"):
            yield Conflict(
                between=("action_head.positions", "action_head.block"),
                why="only the backbone's own blocks know its grid",
                hint='set action_head.block = "backbone", or action_head.positions = "rotary"',
            )
        if self.positions == "rotary" and traits.head_dim % 2:
            yield Conflict(
                between=("action_head.positions", "backbone"),
                why=f"rotary positions need an even head size, the backbone's is {traits.head_dim}",
                hint='set action_head.positions = "sinusoid", or choose another backbone',
            )

    def _conflicts_of_backbone_blocks(self, traits: Traits) -> Iterator[Conflict]:
        if not traits.experts:
            yield Conflict(
                between=("action_head.block", "backbone"),
                why="this backbone makes no narrower copy of its blocks",
                hint='set action_head.block = "own"',
            )
        elif len(self.active_layers(traits)) < traits.depth and not traits.mlp_dim:
            yield Conflict(
                between=("action_head.layer_stride", "action_head.block", "backbone"),
                why="this backbone's blocks can only be copied all together",
                hint="set action_head.layer_stride = 1 without action_head.layers, or "
                'action_head.block = "own"',
            )
        if self.decoder == "modulated" and not traits.level_vector:
            yield Conflict(
                between=("action_head.decoder", "action_head.block", "backbone"),
                why="copies of this backbone's blocks have no vector of a noise level that a "
                "decoder could read too",
                hint='set action_head.decoder = "adaln", or action_head.block = "own"',
            )
        fixed = {"text": self.text == "none", "bias": not self.bias}
        if written := [f"action_head.{name}" for name, is_written in fixed.items() if is_written]:
            yield Conflict(
                between=(*written, "action_head.block"),
                why="a copy of the backbone's blocks reads the instruction as they do, and has "
                "biases where they have",
                hint=f'leave {" and ".join(written)} out, or set action_head.block = "own"',
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self, sizes: HeadContext) -> Any:
        from .head import MotHead

        return self.materialize(lambda: MotHead(self, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Mot)
