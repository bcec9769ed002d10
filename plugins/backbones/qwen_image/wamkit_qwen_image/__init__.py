"""Qwen-Image-Edit as configuration: an image-editing transformer that reads text in its stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import (
    Part,
    TrainedWith,
    Traits,
    VariantBackbone,
    variant_size,
)
from wamkit.config.published import Published

from .published import TRANSFORMER

WAMKIT_API = 1

Variant = Literal["edit-2509", "edit-2511", "tiny"]

PUBLISHED: dict[str, Any] = {
    "layers": 60,
    "num_heads": 24,
    "axes": (16, 56, 56),
    "mlp_dim": 12288,
    "latent_channels": 16,
    "text_width": 3584,
}
SIZES: dict[str, dict[str, Any]] = {
    "edit-2509": PUBLISHED,
    "edit-2511": PUBLISHED,
    "tiny": {
        "layers": 2,
        "num_heads": 2,
        "axes": (8, 12, 12),
        "mlp_dim": 256,
        "latent_channels": 16,
        "text_width": 24,
    },
}

Even = Annotated[int, Field(gt=0, multiple_of=2)]


TRAINED_WITH = TrainedWith(vae="wan2.1", text_encoder="qwen2.5-vl")


class QwenImage(VariantBackbone):
    """Qwen-Image-Edit, a transformer whose every block has weights for text and for images."""

    source = "https://github.com/QwenLM/Qwen-Image"
    sizes = SIZES

    name: Literal["qwen_image"] = "qwen_image"
    variant: Variant = "edit-2511"
    """Sets every size below that is not written. The two published ones have the same sizes;
    edit-2511 was trained with clean reference images, as a policy shows them, edit-2509 with
    references marked as noisy as the image in the making. `tiny` is for tests."""
    text_sigma: Literal["clean", "target", "target_or_clean"] = "clean"
    """Noise level of text tokens. `clean`: 0, so that they are computed once. `target`: that of the
    target frame, as published, in use as in training: text, and what attends to it, is computed
    anew in each step, and a paradigm that acts in passes without a target frame is refused.
    `target_or_clean`: the same, and 0 in passes without one, as ImageWAM acts; in training its
    action attended to text at the target's level."""
    layers: int = variant_size(gt=0)
    num_heads: int = variant_size(gt=0)
    axes: tuple[Even, Even, Even] = variant_size()
    """Channels of a head that rotate with the image's index, the row and the column; each is even,
    and together they are the head size."""
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    latent_channels: int = variant_size(gt=0)
    text_width: int = variant_size(gt=0)

    @property
    def traits(self) -> Traits:
        head_dim = sum(self.axes)
        return Traits(
            depth=self.layers,
            width=self.num_heads * head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
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

    def tiny(self) -> QwenImage:
        return QwenImage(
            variant="tiny", latent_channels=self.latent_channels, text_sigma=self.text_sigma
        )

    def variations(self) -> Sequence[Part]:
        others = ("target", "target_or_clean")
        return [self.model_copy(update={"text_sigma": level}) for level in others]

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import QwenImageExpert

        return QwenImageExpert(self, width, mlp_dim)

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .backbone import QwenImageBackbone

        return self.materialize(lambda: QwenImageBackbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(QwenImage)
