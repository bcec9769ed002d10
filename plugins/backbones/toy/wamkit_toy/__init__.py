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
    """A one-page video diffusion transformer: the backbone interface and nothing else."""

    name: Literal["toy"] = "toy"
    depth: int = Field(4, gt=0)
    """Number of blocks."""
    num_heads: int = Field(4, gt=0)
    head_dim: int = Field(24, gt=0, multiple_of=2)
    mlp_dim: int | None = Field(None, gt=0)
    """Width inside the feed-forward of a block; left open, four times that of a token."""
    latent_channels: int | None = Field(None, gt=0)
    """Channels of the latents; left open, those of the VAE."""
    text_width: int = Field(64, gt=0)
    patch_size: int = Field(2, gt=0)
    """Rows and columns of latents that make one token."""
    predicts: Literal["velocity", "data"] = "velocity"
    """Output of the last layer. A token narrower than its patch can represent
    data, which lies on few dimensions, and no noise (Li and He 2025, "Back to Basics", arXiv
    2511.13720). A policy gets and learns the velocity in either case."""

    @property
    def traits(self) -> Traits:
        width = self.num_heads * self.head_dim
        return Traits(
            depth=self.depth,
            width=width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim or 4 * width,
            experts=True,
            latent_channels=self.latent_channels or 0,
            text_width=self.text_width,
            patch_size=(1, self.patch_size, self.patch_size),
        )

    def resolve(self, spec: PolicySpec) -> Toy:
        return self.model_copy(
            update={"latent_channels": self.latent_channels or spec.vae.channels}
        )

    def tiny(self) -> Toy:
        size = {"depth": 2, "num_heads": 2, "head_dim": 12, "text_width": 16}
        left_open = {"mlp_dim": None, "latent_channels": None, "weights": None}
        return self.model_copy(update={**size, **left_open})

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .backbone import ToyStack

        return ToyStack(self.traits, width, mlp_dim)

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Toy:
        expect_resizable(self.traits, layers, num_heads, mlp_dim)
        sizes = {"depth": len(layers), "num_heads": num_heads, "mlp_dim": mlp_dim}
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
