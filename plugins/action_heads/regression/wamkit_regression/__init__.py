"""The `regression` action head: pooled features, a small perceptron, the whole chunk at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, HeadContext, Part, Traits
from wamkit.config.reading import ReaderConfig, unread_state

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class Regression(ReaderConfig):
    """A perceptron over pooled features of one or several layers: a common baseline.

    It reads no noise: one pass, and the mean squared error of the actions themselves.
    """

    is_regression = True

    name: Literal["regression"] = "regression"
    pool: Literal["mean", "attention"] = "mean"
    """How the tokens of a layer become one vector: their mean, or attention of a learned query
    to, with keys and values normalized first."""
    width: int = Field(1024, gt=0)
    depth: int = Field(2, gt=0)
    """Hidden layers of the perceptron."""
    state: Literal["concat", "text", "none"] = "concat"
    """Where the robot's state enters: concatenated to the pooled features, as one more text token,
    or not at all."""
    text: Literal["pooled", "none"] | None = None
    """Whether the mean of the text tokens is concatenated to the features; by default only if the
    backbone reads none."""

    @property
    def reads_text(self) -> bool:
        return self.text == "pooled"

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        return {}

    def resolve(self, spec: PolicySpec) -> Regression:
        return self.with_defaults_for(spec.backbone.traits)

    def with_defaults_for(self, traits: Traits) -> Regression:
        """Return this head with unset fields resolved; by default the last layer."""
        text = "pooled" if traits.text == "none" else "none"
        layers = self.layers if self.layers is not None else (-1,)
        return self.model_copy(update={"layers": layers, "text": self.text or text})

    def tiny(self) -> Regression:
        layers = self.layers if self.layers == "all" else None
        return self.model_copy(update={"width": 24, "layers": layers, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        yield from unread_state(self.state, spec)

    def build(self, sizes: HeadContext) -> Any:
        from .head import RegressionHead

        config = self.with_defaults_for(sizes.traits)
        return self.materialize(lambda: RegressionHead(config, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Regression)
