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

    conditioning: Literal["in_context", "cross_attention", "adaln", "adaln_zero"] = "adaln"
    """How a block gets the noise level of its tokens: the four ways that DiT compares (Peebles
    and Xie 2022, arXiv 2212.09748). `in_context` adds its embedding to the tokens; under
    `cross_attention` it is one more key and value, next to those of the prompt; `adaln` computes
    shift, scale and gate of the norms from it; `adaln_zero` is `adaln` with those zero before
    training, so that a block at first passes on what it is given. DiT's own `adaln` has no
    gates: here it differs from `adaln_zero` by its first weights alone. The prompt is read by
    cross-attention in all four."""

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

    def variations(self) -> Sequence[Part]:
        others = ("in_context", "cross_attention", "adaln_zero")
        return [self.model_copy(update={"conditioning": name}) for name in others]

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .backbone import ToyStack
        from .conditioning import BLOCKS

        return ToyStack(self.traits, width, mlp_dim, BLOCKS[self.conditioning])

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Toy:
        expect_resizable(self.traits, layers, num_heads, mlp_dim)
        sizes = {"depth": len(layers), "num_heads": num_heads, "mlp_dim": mlp_dim}
        return self.model_copy(update={**sizes, "weights": None})

    def build(self) -> Any:
        from .backbone import ToyBackbone
        from .conditioning import BLOCKS

        block = BLOCKS[self.conditioning]
        return self.materialize(lambda: ToyBackbone(self.traits, self.predicts, block))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Toy)
    add(PixelShuffle)
    add(Bytes)
