"""The parts that need no weights: a backbone, a VAE and a text encoder to read first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import BackboneConfig, Part, Traits, expect_resizable
from wamkit.config.spec import PolicySpec

from .parts import Bytes, PixelShuffle

WAMKIT_API = 1


class Toy(BackboneConfig):
    """A one-page video diffusion transformer: what a backbone has to be, and nothing else."""

    name: Literal["toy"] = "toy"
    depth: int = Field(4, gt=0)
    """Number of blocks."""
    heads: int = Field(4, gt=0)
    head_size: int = Field(24, gt=0, multiple_of=2)
    feed_forward: int | None = Field(None, gt=0)
    """Width inside the feed-forward of a block; left open, four times that of a token."""
    latent_channels: int | None = Field(None, gt=0)
    """Channels of the latents; left open, those of the VAE."""
    text_width: int = Field(64, gt=0)
    patch: int = Field(2, gt=0)
    """Rows and columns of latents that make one token."""
    predicts: Literal["velocity", "data"] = "velocity"
    """What comes out of the last layer. A token narrower than the numbers of its patch can show
    data, which lies on few dimensions, and no noise (Li and He 2025, "Back to Basics", arXiv
    2511.13720). What a policy gets and learns is the velocity in either case."""

    @property
    def traits(self) -> Traits:
        width = self.heads * self.head_size
        return Traits(
            depth=self.depth,
            width=width,
            heads=self.heads,
            key_heads=self.heads,
            head_size=self.head_size,
            feed_forward=self.feed_forward or 4 * width,
            experts=True,
            latent_channels=self.latent_channels or 0,
            text_width=self.text_width,
            patch=(1, self.patch, self.patch),
        )

    def fit(self, spec: PolicySpec) -> Toy:
        return self.model_copy(
            update={"latent_channels": self.latent_channels or spec.vae.channels}
        )

    def tiny(self) -> Toy:
        size = {"depth": 2, "heads": 2, "head_size": 12, "text_width": 16}
        left_open = {"feed_forward": None, "latent_channels": None, "weights": None}
        return self.model_copy(update={**size, **left_open})

    def expert(self, width: int, feed_forward: int) -> Any:
        from .backbone import ToyStack

        return ToyStack(self.traits, width, feed_forward)

    def resized(self, layers: Sequence[int], heads: int, feed_forward: int) -> Toy:
        expect_resizable(self.traits, layers, heads, feed_forward)
        sizes = {"depth": len(layers), "heads": heads, "feed_forward": feed_forward}
        return self.model_copy(update={**sizes, "weights": None})

    def build(self) -> Any:
        from .backbone import ToyBackbone

        return self.materialize(lambda: ToyBackbone(self.traits, self.predicts))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Toy)
    add(PixelShuffle)
    add(Bytes)
