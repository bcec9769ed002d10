"""The parts that need no weights: a backbone, a VAE and a text encoder to read first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field

from wamkit.hooks import hookimpl
from wamkit.parts import BackboneConfig, Part, Traits
from wamkit.spec import PolicySpec

from .parts import Bytes, PixelShuffle


class Toy(BackboneConfig):
    """A one-page video diffusion transformer: what a backbone has to be, and nothing else."""

    name: Literal["toy"] = "toy"
    depth: int = Field(4, gt=0)
    """Number of blocks."""
    heads: int = Field(4, gt=0)
    head_size: int = Field(24, gt=0, multiple_of=2)
    latent_channels: int | None = Field(None, gt=0)
    """Channels of the latents; left open, those of the VAE."""
    text_width: int = Field(64, gt=0)
    patch: int = Field(2, gt=0)
    """Rows and columns of latents that make one token."""

    @property
    def traits(self) -> Traits:
        return Traits(
            depth=self.depth,
            width=self.heads * self.head_size,
            heads=self.heads,
            key_heads=self.heads,
            head_size=self.head_size,
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
        return self.model_copy(update={**size, "latent_channels": None, "weights": None})

    def build(self) -> Any:
        from wamkit.weights import materialize

        from .backbone import ToyBackbone

        return materialize(lambda: ToyBackbone(self.traits), self.weights)


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    add(Toy)
    add(PixelShuffle)
    add(Bytes)
