"""The `state_fusion` action head: pooled layers of the backbone, fused, and a chunk at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Conflict, HeadContext, Part, Traits
from wamkit.config.reading import ReaderConfig, unread_state

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class StateFusion(ReaderConfig):
    """Learned queries pool some layers, the pools are fused, and every action is read off at once.

    Light-WAM (arXiv 2606.08242). It reads no noise: one pass, and the mean squared error of the
    actions themselves.
    """

    source = "https://github.com/L1ziang/Light-WAM"
    is_regression = True
    system_options = ("first_steps",)

    name: Literal["state_fusion"] = "state_fusion"
    queries: int = Field(16, gt=0)
    """Learned queries with which a layer is pooled; their answers are merged into one vector."""
    num_heads: int = Field(8, gt=0)
    """Heads of the pooling; they must divide the backbone's width."""
    layer_width: int = Field(4608, gt=0)
    """Size of what remains of a layer, of the state and of the text."""
    width: int = Field(6144, gt=0)
    """Size of the fused vector."""
    blocks: int = Field(1, ge=0)
    """Residual blocks behind the fusion."""
    adapter: int = Field(256, ge=0)
    """Width of a residual adapter after every block that is read; the rest of the stack reads what
    it adds, as published. 0 for none."""
    state: Literal["text", "concat", "none"] = "text"
    """Where the robot's state enters: as one more text token (as published), concatenated to the
    pooled layers, or not at all."""
    text: Literal["pooled", "none"] | None = None
    """Whether the mean of the text tokens is fused with the layers; left open, only if the
    backbone reads none."""
    first_steps: int | None = Field(None, gt=0)
    """How many actions of a chunk the loss looks at; left open, all. Published weights learned the
    first 8 of 32: the later ones should not be executed."""

    @property
    def reads_text(self) -> bool:
        return self.text == "pooled"

    @property
    def loss_horizon(self) -> int | None:
        return self.first_steps

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        return {}

    def resolve(self, spec: PolicySpec) -> StateFusion:
        return self.with_defaults_for(spec.backbone.traits)

    def with_defaults_for(self, traits: Traits) -> StateFusion:
        """Return this head with unset fields resolved for the backbone; layers 8, 16, 24 of 30."""
        usual = tuple(dict.fromkeys(traits.depth * part // 30 for part in (8, 16, 24)))
        text = "pooled" if traits.text == "none" else "none"
        layers = self.layers if self.layers is not None else usual
        return self.model_copy(update={"layers": layers, "text": self.text or text})

    def tiny(self) -> StateFusion:
        size = {"queries": 3, "num_heads": 2, "layer_width": 20, "width": 24, "weights": None}
        layers = self.layers if self.layers == "all" else None
        adapter = min(self.adapter, 8)
        return self.model_copy(update={**size, "layers": layers, "adapter": adapter})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        yield from super().conflicts(spec)
        yield from unread_state(self.state, spec)
        width = spec.backbone.traits.width
        if width % self.num_heads:
            fits = max(n for n in range(1, self.num_heads) if width % n == 0)
            yield Conflict(
                between=("action_head.num_heads", "backbone"),
                why=f"{self.num_heads} heads cannot share tokens of width {width}",
                hint=f"set action_head.num_heads = {fits}",
            )
        if self.first_steps is not None and self.first_steps > spec.actions.chunk_size:
            yield Conflict(
                between=("action_head.first_steps", "actions.chunk_size"),
                why=f"the first {self.first_steps} of {spec.actions.chunk_size} actions",
                hint="leave out action_head.first_steps, which means all of them",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self, sizes: HeadContext) -> Any:
        from .head import StateFusionHead

        config = self.with_defaults_for(sizes.traits)
        return self.materialize(lambda: StateFusionHead(config, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(StateFusion)
