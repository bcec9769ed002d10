"""The `latent_slot` action head: vectors written into latent frames of the video itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import ActionHeadConfig, Conflict, HeadContext, Part

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1


class LatentSlot(ActionHeadConfig):
    """Vectors tiled over whole latent frames, which the backbone denoises like images.

    Cosmos Policy (arXiv 2601.16163). It has no network of its own: the backbone learns to read and
    to write the frames, and nothing of its architecture changes.
    """

    source = "https://github.com/NVlabs/cosmos-policy"
    uses_backbone_blocks = True
    token_per_action = False

    name: Literal["latent_slot"] = "latent_slot"
    slots: int | None = Field(None, gt=0)
    """Latent frames of an action chunk; by default as few as it fits into, published: 1."""
    layout: Literal["cosmos", "append"] = "cosmos"
    """Where slots stand in time. `cosmos`: blank, state, observed frames | action, next state,
    imagined frames, value, as published. `append`: frames keep the places of their pretraining, and
    the slots of a chunk come after them."""
    blank: Literal["learned", "black", "none"] | None = None
    """The first frame in `cosmos`: learned, the VAE latent of a black image (published), or left
    out and its place kept free. By default learned; `append` has no place for it."""

    def frames(self, sizes: HeadContext) -> int:
        """Latent frames of an action chunk, with unset fields resolved from `sizes`."""
        return self.slots or -(-sizes.chunk * sizes.action // max(1, prod(sizes.latent)))

    @property
    def blank_frame(self) -> str:
        """What the blank frame is: `blank`, resolved from the layout where it is unset."""
        return self.blank or ("learned" if self.layout == "cosmos" else "none")

    @property
    def leading_frames(self) -> int:
        return int(self.blank_frame == "black")

    def black_frames(self, sizes: HeadContext) -> tuple[int, int]:
        if self.layout == "append":
            return self.leading_frames, 0
        state = int(sizes.state > 0)
        return 1 + state, self.frames(sizes) + state

    def resolve(self, spec: PolicySpec) -> LatentSlot:
        return self.model_copy(update={"slots": self.frames(spec.sizes), "blank": self.blank_frame})

    def tokens(self, sizes: HeadContext) -> dict[str, int]:
        found = {"context": int(self.blank_frame != "none"), "state": int(sizes.state > 0)}
        found |= {part: self.frames(sizes) if part == "action" else 1 for part in sizes.predicts}
        return {role: sizes.traits.tokens(n, *sizes.latent[1:]) for role, n in found.items() if n}

    def tiny(self) -> LatentSlot:
        return self.model_copy(update={"slots": None, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        sizes, traits = spec.sizes, spec.backbone.traits
        room, latent = prod(sizes.latent), "x".join(map(str, sizes.latent))
        size = sizes.chunk * sizes.action
        if not traits.imagines:
            yield Conflict(
                between=("action_head", "backbone"),
                why=f"{spec.backbone.name} has no velocity that actions in latent frames could be "
                "read from",
                hint="choose a backbone that was trained to denoise, or an action head that reads "
                "hidden states or has tokens of its own (`wamkit list action_head`)",
            )
        if room and size > room * self.frames(sizes):
            yield Conflict(
                between=("action_head.slots", "actions", "cameras"),
                why=f"a chunk of {sizes.chunk} x {sizes.action} values does not fit into "
                f"{self.slots} x {latent} latents",
                hint=f"set action_head.slots = {-(-size // room)}, or leave it out",
            )
        if room and sizes.state > room:
            yield Conflict(
                between=("state.size", "cameras"),
                why=f"a state of {sizes.state} values does not fit into one latent frame of "
                f"{latent}",
                hint="make the views larger, or set state.size to at most "
                f"{room} values and choose which",
            )
        if self.blank_frame != "none" and self.layout == "append":
            yield Conflict(
                between=("action_head.blank", "action_head.layout"),
                why="a blank frame stands before all others, and where slots are appended the "
                "first place is the video's",
                hint='set action_head.blank = "none", or action_head.layout = "cosmos"',
            )
        if self.blank_frame != "learned" and self.weights is not None:
            yield Conflict(
                between=("action_head.weights", "action_head.blank"),
                why=f"weights are named, {self.weights}, and without a learned blank frame there "
                "are none",
                hint='set action_head.blank = "learned", or leave action_head.weights out',
            )

    def build(self, sizes: HeadContext) -> Any:
        from .head import LatentSlotHead

        return self.materialize(lambda: LatentSlotHead(self, sizes))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(LatentSlot)
