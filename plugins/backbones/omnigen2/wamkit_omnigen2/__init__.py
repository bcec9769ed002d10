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
    open_size,
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
        "heads": 21,
        "key_heads": 7,
        "axes": (40, 40, 40),
        "feed_forward": 10240,
        "latent_channels": 16,
        "text_width": 2048,
    },
    "tiny": {
        "layers": 2,
        "refiners": 1,
        "heads": 4,
        "key_heads": 2,
        "axes": (8, 4, 4),
        "feed_forward": 96,
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
    layers: int = open_size(gt=0)
    """Blocks in which text and images attend to each other."""
    refiners: int = open_size(gt=0)
    """Blocks that text, each reference and each target pass on their own before."""
    heads: int = open_size(gt=0)
    key_heads: int = open_size(gt=0)
    """Heads of keys and values; each serves heads / key_heads query heads."""
    axes: tuple[Even, Even, Even] = open_size()
    """Elements of a head that turn with the place in the sequence, the row and the column; each is
    even, and together they are the head size."""
    feed_forward: int = open_size(gt=0)
    """Width inside the feed-forward of a block."""
    latent_channels: int = open_size(gt=0)
    text_width: int = open_size(gt=0)

    @model_validator(mode="after")
    def _groups(self) -> OmniGen2:
        if self.heads % self.key_heads:
            raise ValueError(f"{self.heads} heads cannot share {self.key_heads} key_heads evenly")
        return self

    @property
    def traits(self) -> Traits:
        head_size = sum(self.axes)
        return Traits(
            depth=self.layers,
            width=self.heads * head_size,
            heads=self.heads,
            key_heads=self.key_heads,
            head_size=head_size,
            feed_forward=self.feed_forward,
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

    def expert(self, width: int, feed_forward: int) -> Any:
        from .expert import OmniGen2Stack

        return OmniGen2Stack(self, width, feed_forward)

    def resized(self, layers: Sequence[int], heads: int, feed_forward: int) -> OmniGen2:
        expect_resizable(self.traits, layers, heads, feed_forward)
        sizes = {
            "layers": len(layers),
            "heads": heads,
            "key_heads": heads * self.key_heads // self.heads,
            "feed_forward": feed_forward,
        }
        return OmniGen2.model_validate({**self.model_dump(), **sizes, "weights": None})

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        observed, _ = spec.latent_frames
        if observed > REFERENCES:
            most = 1 + (REFERENCES - 1) * spec.vae.stride[0]
            yield Conflict(
                between=("video.context", "backbone"),
                why=f"{spec.video.context} observed images are {observed} latent frames, and "
                f"omnigen2 tells at most {REFERENCES} reference images apart",
                hint=f"set video.context to {most} or less",
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import DIALECTS

        return DIALECTS

    def build(self) -> Any:
        from .backbone import OmniGen2Backbone

        return self.materialize(lambda: OmniGen2Backbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(OmniGen2)
