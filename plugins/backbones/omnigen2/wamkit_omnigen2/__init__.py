"""OmniGen2 as configuration: an image-editing transformer over one sequence of text and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import (
    Conflict,
    Part,
    TrainedWith,
    Traits,
    VariantBackbone,
    expect_resizable,
    variant_size,
)
from wamkit.config.published import Published

from .published import TRANSFORMER

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

REFERENCES = 5  # the most reference images it has embeddings for

SIZES: dict[str, dict[str, Any]] = {
    "omnigen2": {
        "layers": 32,
        "refiners": 2,
        "num_heads": 21,
        "num_kv_heads": 7,
        "axes": (40, 40, 40),
        "mlp_dim": 10240,
        "latent_channels": 16,
        "text_width": 2048,
    },
    "tiny": {
        "layers": 2,
        "refiners": 1,
        "num_heads": 4,
        "num_kv_heads": 2,
        "axes": (8, 4, 4),
        "mlp_dim": 96,
        "latent_channels": 16,
        "text_width": 24,
    },
}

Even = Annotated[int, Field(gt=0, multiple_of=2)]


TRAINED_WITH = TrainedWith(vae="flux1", text_encoder="qwen2.5-vl")


class OmniGen2(VariantBackbone):
    """OmniGen2, a transformer that refines text and every image alone before it joins them."""

    source = "https://github.com/VectorSpaceLab/OmniGen2"
    sizes = SIZES

    name: Literal["omnigen2"] = "omnigen2"
    variant: Literal["omnigen2", "tiny"] = "omnigen2"
    """Sets every size below that is not written; `tiny` is for tests."""
    text_sigma: Literal["clean", "target", "target_or_clean"] = "clean"
    """Noise level of the text. `clean`: 0, so that it is computed once. `target`: that of the
    target frame, as published, in use as in training: text, and what attends to it, is computed
    anew in each step, and a paradigm that acts in passes without a target frame is refused.
    `target_or_clean`: the same, and 0 in passes without one, as ImageWAM acts; in training its
    action attended to text at the target's level."""
    layers: int = variant_size(gt=0)
    """Blocks in which text and images attend to each other."""
    refiners: int = variant_size(gt=0)
    """Blocks that text, each reference and each target pass on their own before."""
    num_heads: int = variant_size(gt=0)
    num_kv_heads: int = variant_size(gt=0)
    """Heads of keys and values; each serves heads / num_kv_heads query heads."""
    axes: tuple[Even, Even, Even] = variant_size()
    """Elements of a head that turn with the place in the sequence, the row and the column; each is
    even, and together they are the head size."""
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    latent_channels: int = variant_size(gt=0)
    text_width: int = variant_size(gt=0)

    @model_validator(mode="after")
    def _groups(self) -> OmniGen2:
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{self.num_heads} heads cannot share {self.num_kv_heads} num_kv_heads evenly"
            )
        return self

    @property
    def traits(self) -> Traits:
        head_dim = sum(self.axes)
        return Traits(
            depth=self.layers,
            width=self.num_heads * head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=head_dim,
            mlp_dim=self.mlp_dim,
            experts=True,
            latent_channels=self.latent_channels,
            text_width=self.text_width,
            frames="one",
            text="stream",
            text_level=self.text_sigma,
            trained_with=TrainedWith() if self.variant == "tiny" else TRAINED_WITH,
        )

    @classmethod
    def published(cls) -> Sequence[Published]:
        return TRANSFORMER

    def tiny(self) -> OmniGen2:
        return OmniGen2(
            variant="tiny", latent_channels=self.latent_channels, text_sigma=self.text_sigma
        )

    def variations(self) -> Sequence[Part]:
        others = ("target", "target_or_clean")
        return [self.model_copy(update={"text_sigma": level}) for level in others]

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import OmniGen2Stack

        return OmniGen2Stack(self, width, mlp_dim)

    def resized(self, layers: Sequence[int], num_heads: int, mlp_dim: int) -> OmniGen2:
        expect_resizable(self.traits, layers, num_heads, mlp_dim)
        sizes = {
            "layers": len(layers),
            "num_heads": num_heads,
            "num_kv_heads": num_heads * self.num_kv_heads // self.num_heads,
            "mlp_dim": mlp_dim,
        }
        return OmniGen2.model_validate({**self.model_dump(), **sizes, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        observed, _ = spec.latent_frames
        if observed > REFERENCES:
            each = REFERENCES // spec.cameras.apart
            alone = spec.video.observed_latents == "images"
            most = each if alone else 1 + (each - 1) * spec.time_stride
            fewer = f"set video.num_observed to {most} or less"
            yield Conflict(
                between=("video.num_observed", "backbone"),
                why=f"{spec.video.num_observed} observed images are {observed} latent frames, and "
                f"omnigen2 tells at most {REFERENCES} reference images apart",
                hint=fewer if each else 'set cameras.layout = "side_by_side"',
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .backbone import OmniGen2Backbone

        return self.materialize(lambda: OmniGen2Backbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(OmniGen2)
