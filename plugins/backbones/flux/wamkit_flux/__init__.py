"""The FLUX family as configuration: two image-editing backbones and their VAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from wamkit.config.conditioner import missing_folder
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import (
    Conflict,
    Part,
    PublishedVAE,
    TrainedWith,
    Traits,
    VariantBackbone,
    expect_resizable,
    variant_size,
)
from wamkit.config.published import Published
from wamkit.errors import WamkitError

from . import published

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

# fmt: off
SIZES_2: dict[str, dict[str, Any]] = {
    "klein-4b": {
        "double_layers": 5, "single_layers": 20, "num_heads": 24, "head_dim": 128,
        "mlp_dim": 9216, "text_width": 7680,
    },
    "klein-9b": {
        "double_layers": 8, "single_layers": 24, "num_heads": 32, "head_dim": 128,
        "mlp_dim": 12288, "text_width": 12288,
    },
    "tiny": {
        "double_layers": 2, "single_layers": 2, "num_heads": 3, "head_dim": 24,
        "mlp_dim": 96, "text_width": 32,
    },
}
SIZES_1: dict[str, dict[str, Any]] = {
    "kontext-dev": {
        "double_layers": 19, "single_layers": 38, "num_heads": 24, "head_dim": 128,
        "mlp_dim": 12288, "text_width": 4096, "cond_embeds_width": 768,
    },
    "tiny": {
        "double_layers": 2, "single_layers": 2, "num_heads": 3, "head_dim": 24,
        "mlp_dim": 288, "text_width": 32, "cond_embeds_width": 0,
    },
}
# fmt: on


KLEIN = TrainedWith(vae="flux2", text_encoder="qwen3")
TRAINED_WITH = {
    "klein-4b": KLEIN,
    "klein-9b": KLEIN,
    "kontext-dev": TrainedWith(vae="flux1", text_encoder="t5-xxl"),
}


class _Flux(VariantBackbone):
    """Base of both generations: sizes that a variant sets, and two kinds of blocks."""

    double_layers: int = variant_size(gt=0)
    """Blocks with weights of their own for text tokens; they come first."""
    single_layers: int = variant_size(gt=0)
    """Blocks with the same weights for text tokens and frames."""
    num_heads: int = variant_size(gt=0)
    head_dim: int = variant_size(gt=0, multiple_of=8)
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    text_width: int = variant_size(gt=0)
    text_sigma: Literal["clean", "target", "target_or_clean"] = "clean"
    """Noise level of text tokens. `clean`: 0, so that they are computed once. `target`: that of the
    target frame, as published, in use as in training: text, and what attends to it, is computed
    anew in each step, and a paradigm that acts in passes without a target frame is refused.
    `target_or_clean`: the same, and 0 in passes without one, as ImageWAM acts; in training its
    action attended to text at the target's level."""

    @property
    def width(self) -> int:
        """Size of a token (D)."""
        return self.num_heads * self.head_dim

    def _traits(self, **more: Any) -> Traits:
        return Traits(
            depth=self.double_layers + self.single_layers,
            width=self.width,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            experts=True,
            level_vector=True,
            text_width=self.text_width,
            frames="one",
            text="stream",
            text_level=self.text_sigma,
            trained_with=TRAINED_WITH.get(getattr(self, "variant", ""), TrainedWith()),
            **more,
        )

    def variations(self) -> Sequence[Part]:
        others = ("target", "target_or_clean")
        return [self.model_copy(update={"text_sigma": level}) for level in others]

    def _resized_fields(
        self, layers: Sequence[int], num_heads: int, mlp_dim: int
    ) -> dict[str, Any]:
        """This configuration's fields for only these blocks. Raises WamkitError as `resized`."""
        expect_resizable(self.traits, layers, num_heads, mlp_dim)
        num_double = sum(layer < self.double_layers for layer in layers)
        if num_double in (0, len(layers)):
            raise WamkitError(
                f"found {num_double} double and {len(layers) - num_double} single blocks among "
                f"{list(layers)}, expected at least one of each",
                f"name blocks below {self.double_layers} and from there on",
            )
        sizes = {"num_heads": num_heads, "mlp_dim": mlp_dim, "weights": None}
        counts = {"double_layers": num_double, "single_layers": len(layers) - num_double}
        return {**self.model_dump(), **counts, **sizes}


class Flux2(_Flux):
    """FLUX.2 klein, an image-editing transformer that reads text and references."""

    license = "Apache-2.0 (klein-4b), FLUX Non-Commercial License (klein-9b)"
    source = "https://github.com/black-forest-labs/flux2"
    sizes = SIZES_2

    name: Literal["flux2"] = "flux2"
    variant: Literal["klein-4b", "klein-9b", "tiny"] = "klein-4b"
    """Sets every size that is not written. `tiny` is for tests."""
    latent_channels: int = Field(128, gt=0)
    """32 channels of 2 x 2 latents, as the VAE `flux2` makes them."""
    guidance: float | None = Field(None, ge=0)
    """Guidance scale that a guidance-distilled model reads; none for klein, which reads none."""

    @property
    def traits(self) -> Traits:
        return self._traits(latent_channels=self.latent_channels, patch_size=(1, 1, 1))

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.FLUX2

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .flux2 import Flux2Expert

        return Flux2Expert(self, width, mlp_dim)

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Flux2:
        return Flux2.model_validate(self._resized_fields(layers, num_heads, mlp_dim))

    def tiny(self) -> Flux2:
        return Flux2(
            variant="tiny",
            latent_channels=self.latent_channels,
            guidance=self.guidance,
            text_sigma=self.text_sigma,
        )

    def layouts(self) -> Sequence[Any]:
        from .weights import FLUX2

        return FLUX2

    def build(self) -> Any:
        from .flux2 import Flux2Backbone

        return self.materialize(lambda: Flux2Backbone(self))


ENCODER_FOLDER = "text_encoder"


class Flux1(_Flux):
    """FLUX.1 Kontext, an image-editing transformer that reads a guidance scale."""

    license = "FLUX.1 [dev] Non-Commercial License"
    source = "https://github.com/black-forest-labs/flux"
    sizes = SIZES_1

    name: Literal["flux1"] = "flux1"
    variant: Literal["kontext-dev", "tiny"] = "kontext-dev"
    """Sets every size that is not written. `tiny` is for tests."""
    cond_embeds_width: int = variant_size(ge=0)
    """Width of the pooled CLIP text vector, which comes as `Text.cond_embeds` [B, 1, width]; 0 for
    a model that takes none."""
    conditioner_weights: str | None = None
    """Folder or file of the CLIP text tower, where `weights` is no folder that holds it as
    `text_encoder/`."""
    guidance: float = Field(2.5, ge=0)
    """Guidance scale that the model reads."""

    @property
    def traits(self) -> Traits:
        return self._traits(
            latent_channels=16, patch_size=(1, 2, 2), cond_embeds_width=self.cond_embeds_width
        )

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.FLUX1

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .flux1 import Flux1Expert

        return Flux1Expert(self, width, mlp_dim)

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> Flux1:
        sizes = self._resized_fields(layers, num_heads, mlp_dim)
        pooled = (self.conditioner_weights or self.weights) if self.cond_embeds_width else None
        return Flux1.model_validate({**sizes, "conditioner_weights": pooled})

    def tiny(self) -> Flux1:
        return Flux1(
            variant="tiny",
            cond_embeds_width=8 if self.cond_embeds_width else 0,
            guidance=self.guidance,
            text_sigma=self.text_sigma,
        )

    def conditioner(self) -> Any:
        from wamkit.checkpoints import conditioner

        from .pooled import LAYOUTS, PooledText, Shape, tiny

        shape = (
            tiny(self.cond_embeds_width)
            if self.variant == "tiny"
            else Shape(self.cond_embeds_width)
        )
        return conditioner.build(lambda: PooledText(shape), self, ENCODER_FOLDER, LAYOUTS)

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if self.cond_embeds_width:
            yield from missing_folder(self, ENCODER_FOLDER)

    def layouts(self) -> Sequence[Any]:
        from .weights import FLUX1

        return FLUX1

    def build(self) -> Any:
        from .flux1 import Flux1Backbone

        return self.materialize(lambda: Flux1Backbone(self))


class _FluxVAE(PublishedVAE):
    def layouts(self) -> Sequence[Any]:
        from .weights import VAE

        return VAE

    def _build(self) -> Any:
        from .vae import AUTOENCODERS, PUBLISHED, TINY

        sizes = TINY if self.width == "tiny" else PUBLISHED
        return self.materialize(lambda: AUTOENCODERS[self.name](sizes))


class Flux2VAE(_FluxVAE):
    """The image VAE of FLUX.2, with its latents folded 2 x 2 and normalized."""

    source = "https://github.com/black-forest-labs/flux2"
    latent = 128
    strides = (1, 16, 16)

    name: Literal["flux2"] = "flux2"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.VAE2


class Flux1VAE(_FluxVAE):
    """The image VAE of FLUX.1, also that of OmniGen2."""

    source = "https://github.com/black-forest-labs/flux"
    latent = 16
    strides = (1, 8, 8)

    name: Literal["flux1"] = "flux1"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.VAE1


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Flux2)
    add(Flux1)
    add(Flux2VAE)
    add(Flux1VAE)
