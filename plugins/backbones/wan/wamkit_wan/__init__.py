"""The Wan family as configuration: the video backbone and its two VAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

from wamkit.config.conditioner import missing_folder
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import (
    Conflict,
    Part,
    PublishedVAE,
    TrainedWith,
    Traits,
    VariantBackbone,
    variant_size,
)
from wamkit.config.published import Published

from . import published

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

Variant = Literal[
    "2.1-t2v-1.3b",
    "2.1-t2v-14b",
    "2.1-i2v-14b",
    "2.2-ti2v-5b",
    "2.2-t2v-a14b",
    "2.2-i2v-a14b",
    "tiny",
]

# fmt: off
SIZES: dict[str, dict[str, int]] = {
    "2.1-t2v-1.3b": {
        "layers": 30, "num_heads": 12, "head_dim": 128, "mlp_dim": 8960,
        "latent_channels": 16, "cond_channels": 0, "text_width": 4096, "cond_embeds_width": 0,
    },
    "2.1-t2v-14b": {
        "layers": 40, "num_heads": 40, "head_dim": 128, "mlp_dim": 13824,
        "latent_channels": 16, "cond_channels": 0, "text_width": 4096, "cond_embeds_width": 0,
    },
    "2.1-i2v-14b": {
        "layers": 40, "num_heads": 40, "head_dim": 128, "mlp_dim": 13824,
        "latent_channels": 16, "cond_channels": 20, "text_width": 4096, "cond_embeds_width": 1280,
    },
    "2.2-ti2v-5b": {
        "layers": 30, "num_heads": 24, "head_dim": 128, "mlp_dim": 14336,
        "latent_channels": 48, "cond_channels": 0, "text_width": 4096, "cond_embeds_width": 0,
    },
    "2.2-t2v-a14b": {
        "layers": 40, "num_heads": 40, "head_dim": 128, "mlp_dim": 13824,
        "latent_channels": 16, "cond_channels": 0, "text_width": 4096, "cond_embeds_width": 0,
    },
    "2.2-i2v-a14b": {
        "layers": 40, "num_heads": 40, "head_dim": 128, "mlp_dim": 13824,
        "latent_channels": 16, "cond_channels": 20, "text_width": 4096, "cond_embeds_width": 0,
    },
    "tiny": {
        "layers": 3, "num_heads": 3, "head_dim": 24, "mlp_dim": 96,
        "latent_channels": 16, "cond_channels": 0, "text_width": 32, "cond_embeds_width": 0,
    },
}
# fmt: on
# Where a checkpoint of two experts keeps each, in diffusers' and in the original layout.
FOLDERS = {
    "high": ("transformer", "high_noise_model"),
    "low": ("transformer_2", "low_noise_model"),
}


ENCODER_FOLDER = "image_encoder"


class Wan(VariantBackbone):
    """Wan 2.1 or 2.2, a video diffusion transformer that reads its text by cross-attention."""

    source = "https://github.com/Wan-Video/Wan2.2 and https://github.com/Wan-Video/Wan2.1"
    sizes = SIZES
    config_folders = ("transformer", *FOLDERS["low"], *FOLDERS["high"])

    name: Literal["wan"] = "wan"
    variant: Variant = "2.2-ti2v-5b"
    """Sets every size below that is not written. Only 2.2-ti2v-5b was trained on clips whose frames
    have noise levels of their own; `tiny` is for tests."""
    noise: Literal["high", "low"] = "low"
    """Which transformer of 2.2 A14B is read where `weights` is a folder with both: the one for the
    beginning of a denoising, or the one for its end, which also knows clean frames."""
    layers: int = variant_size(gt=0)
    num_heads: int = variant_size(gt=0)
    head_dim: int = variant_size(gt=0, multiple_of=2)
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    latent_channels: int = variant_size(gt=0)
    cond_channels: int = variant_size(ge=0)
    """Channels put behind the latent ones: in 2.1-i2v, 4 of mask and 16 of the encoded image."""
    text_width: int = variant_size(gt=0)
    cond_embeds_width: int = variant_size(ge=0)
    """Width of the CLIP tokens of the first image; 0 for a model that takes none."""
    conditioner_weights: str | None = None
    """Folder or file of the CLIP image tower, where `weights` is no folder that holds it as
    `image_encoder/`."""

    @property
    def traits(self) -> Traits:
        return Traits(
            depth=self.layers,
            width=self.num_heads * self.head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            level_embedder=True,
            final_norm=True,
            experts=True,
            line_positions=True,
            latent_channels=self.latent_channels,
            text_width=self.text_width,
            cond_channels=self.cond_channels,
            cond_embeds_width=self.cond_embeds_width,
            trained_with=self._trained_with(),
        )

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.TRANSFORMER

    def tiny(self) -> Wan:
        return Wan(
            variant="tiny",
            latent_channels=self.latent_channels,
            cond_channels=self.cond_channels,
            cond_embeds_width=16 if self.cond_embeds_width else 0,
        )

    def _trained_with(self) -> TrainedWith:
        if self.variant == "tiny":
            return TrainedWith()
        vae = "wan2.2" if self.variant == "2.2-ti2v-5b" else "wan2.1"
        return TrainedWith(vae=vae, text_encoder="umt5-xxl")

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Self:
        seen = (self.conditioner_weights or self.weights) if self.cond_embeds_width else None
        small = super().resized(layers, num_heads, mlp_dim)
        return small.model_copy(update={"conditioner_weights": seen})

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import WanExpert

        return WanExpert(self.traits, width, mlp_dim)

    def level_embedder(self) -> Any:
        from .embedders import LevelEmbedder

        return LevelEmbedder(self.traits.width)

    def conditioner(self) -> Any:
        from wamkit.checkpoints import conditioner

        from .image_encoder import ImageEncoder, Shape, layouts, tiny

        shape = (
            tiny(self.cond_embeds_width)
            if self.variant == "tiny"
            else Shape(self.cond_embeds_width)
        )
        return conditioner.build(lambda: ImageEncoder(shape), self, ENCODER_FOLDER, layouts(shape))

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if self.cond_embeds_width:
            yield from missing_folder(self, ENCODER_FOLDER)
        if self.noise == "high" and "a14b" not in self.variant:
            yield Conflict(
                between=("backbone.noise", "backbone.variant"),
                why=f"{self.variant} is one transformer, it has no other for high noise",
                hint="leave noise out, or choose variant 2.2-t2v-a14b or 2.2-i2v-a14b",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .backbone import WanBackbone

        folders = FOLDERS[self.noise] if "a14b" in self.variant else ("transformer",)
        return self.materialize(lambda: WanBackbone(self), folders)


class _WanVAE(PublishedVAE):
    streams = True

    def layouts(self) -> Sequence[Any]:
        from .vae_weights import LAYOUTS

        return LAYOUTS[self.name]

    def _build(self) -> Any:
        from .vae import SHAPES, WanVAE, tiny

        shape = SHAPES[self.name]
        return self.materialize(lambda: WanVAE(tiny(shape) if self.width == "tiny" else shape))


class WanVAE21(_WanVAE):
    """Wan 2.1's causal video VAE, also that of Cosmos-Predict2 and of Qwen-Image."""

    source = "https://github.com/Wan-Video/Wan2.1"
    latent = 16
    strides = (4, 8, 8)

    name: Literal["wan2.1"] = "wan2.1"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.VAE21


class WanVAE22(_WanVAE):
    """The causal video VAE of Wan 2.2 TI2V-5B."""

    source = "https://github.com/Wan-Video/Wan2.2"
    latent = 48
    strides = (4, 16, 16)

    name: Literal["wan2.2"] = "wan2.2"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.VAE22


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Wan)
    add(WanVAE21)
    add(WanVAE22)
