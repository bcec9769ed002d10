"""The `reader` action head: a flow-matching transformer that attends to the backbone's layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, HeadContext, Part, Traits
from wamkit.config.reading import ReaderConfig, places, unread_state

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

Reads = Literal["each", "one", "last", "all"]

OPEN: Mapping[str, Mapping[str, str]] = {
    "each": {"levels": "action", "positions": "rotary"},
    "one": {"levels": "both", "positions": "learned"},
    "last": {"levels": "action", "positions": "learned"},
    "all": {"levels": "action", "positions": "learned"},
}
"""Defaults of the published head of each kind."""


class Reader(ReaderConfig):
    """A transformer over action tokens that reads hidden states of the backbone by cross-attention.

    By default as in GE-Act (arXiv 2508.05635): as many blocks as the backbone has, and block i
    reads the output of the backbone's block i.
    """

    source = "https://github.com/AgibotTech/Genie-Envisioner"

    name: Literal["reader"] = "reader"
    reads: Reads = "each"
    """Source of a block's cross-attention: `each` the i-th of `layers`, one block for each
    (GE-Act); `one` a single layer inside the stack (mimic-video, arXiv 2512.15692); `last` the last
    one (starVLA); `all` those of `layers` together. Left open, `layers` is all, two thirds up, the
    last, all."""
    num_heads: int = Field(16, gt=0)
    head_dim: int = Field(32, gt=0, multiple_of=2)
    """The width of a token is heads * head_dim."""
    mlp_dim: int = Field(2048, gt=0)
    blocks: int | None = Field(None, gt=0)
    """Number of blocks; with `reads = "each"` it is that of the layers, and left open; else 8."""
    state: Literal["token", "action_token", "concat", "text", "none"] = "token"
    """Where the robot's state enters: as a token before the actions (`token`), as such a token
    through the encoder of actions, as the last values of an action that is else zero
    (`action_token`, GE-Act's `add_state`), concatenated to the values of every action (`concat`),
    as one more text token (`text`), or not at all."""
    text: Literal["cross", "none"] | None = None
    """Whether the prompt is read besides the hidden states; by default only if the backbone reads
    none."""
    levels: Literal["action", "both"] | None = None
    """The noise levels that blocks follow: the action's own, or also that of the frames when they
    were read, by a bilinear map of rank `rank`. Left open, both with `reads = "one"`."""
    rank: int = Field(64, gt=0)
    positions: Literal["rotary", "rotary_float32", "learned"] | None = None
    """Left open, rotary with `reads = "each"`, else learned. `rotary_float32`: angles as GE-Act's
    code computes them, whose rounding is of the order of 0.001 in the fastest ones."""

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        written = {key: value for key, value in given.items() if value is not None}
        return {**OPEN.get(written.get("reads", "each"), {}), **written}

    @property
    def width(self) -> int:
        """Size of an action token."""
        return self.num_heads * self.head_dim

    @property
    def reads_text(self) -> bool:
        return self.text == "cross"

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        state = {"state": 1} if self.state in ("token", "action_token") and sizes.state else {}
        rest = {part: 1 for part in sizes.predicts if part != "action"}
        return {**state, "action": sizes.chunk, **rest}

    def resolve(self, spec: PolicySpec) -> Reader:
        return self.with_defaults_for(spec.backbone.traits)

    def with_defaults_for(self, traits: Traits) -> Reader:
        """Return this head with unset fields resolved for the backbone."""
        inside = (traits.depth * 2 // 3,)
        usual: Any = {"one": inside, "last": (-1,)}.get(self.reads, "all")
        text = "cross" if traits.text == "none" else "none"
        return self.model_copy(
            update={
                "layers": self.layers if self.layers is not None else usual,
                "text": self.text or text,
                "blocks": self.blocks or (None if self.reads == "each" else 8),
            }
        )

    def tiny(self) -> Reader:
        size = {"num_heads": 2, "head_dim": 8, "mlp_dim": 24, "rank": 4, "weights": None}
        layers = self.layers if self.layers == "all" else None
        return self.model_copy(
            update={**size, "layers": layers, "blocks": self.blocks and min(self.blocks, 2)}
        )

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        yield from unread_state(self.state, spec)
        if self.state == "action_token" and spec.state.size > spec.actions.size:
            yield Conflict(
                between=("action_head.state", "state.size"),
                why=f"a state of {spec.state.size} values passes as an action of "
                f"{spec.actions.size}",
                hint='set action_head.state = "token"',
            )
        if self.layers is not None and self.reads in ("one", "last"):
            count = len(places(self.layers, spec.backbone.traits.depth))
            if count > 1:
                yield Conflict(
                    between=("action_head.reads", "action_head.layers"),
                    why=f'reads = "{self.reads}" is about one layer, found {count}',
                    hint='name one layer, or set action_head.reads = "all"',
                )
        if self.reads == "each" and self.blocks is not None:
            yield Conflict(
                between=("action_head.reads", "action_head.blocks"),
                why=f'reads = "each" has a block for every layer it reads, found blocks = '
                f"{self.blocks}",
                hint="leave out action_head.blocks, or list as many layers in action_head.layers",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self, sizes: HeadContext) -> Any:
        from .head import DiTReader

        config = self.with_defaults_for(sizes.traits)
        return self.materialize(lambda: DiTReader(config, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Reader)
