"""The LTX family as configuration: LTX-Video, the video half of LTX-2, and their VAEs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from wamkit.config.hooks import hookimpl
from wamkit.config.parts import (
    Conflict,
    Part,
    TrainedWith,
    Traits,
    VariantBackbone,
    variant_size,
)
from wamkit.config.published import Published

from . import published
from .vae_config import LTX2VAE, LTXVAE

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1

# fmt: off
SIZES: dict[str, dict[str, int]] = {
    "0.9-2b": {
        "layers": 28, "num_heads": 32, "head_dim": 64, "mlp_dim": 8192,
        "latent_channels": 128, "text_width": 4096,
    },
    "0.9.7-13b": {
        "layers": 48, "num_heads": 32, "head_dim": 128, "mlp_dim": 16384,
        "latent_channels": 128, "text_width": 4096,
    },
    "tiny": {
        "layers": 2, "num_heads": 4, "head_dim": 16, "mlp_dim": 256,
        "latent_channels": 128, "text_width": 32,
    },
}
SIZES_2: dict[str, dict[str, Any]] = {
    "2.0": {
        "layers": 48, "num_heads": 32, "head_dim": 128, "mlp_dim": 16384,
        "latent_channels": 128, "text_width": 3840, "design": "2.0",
    },
    "2.3": {
        "layers": 48, "num_heads": 32, "head_dim": 128, "mlp_dim": 16384,
        "latent_channels": 128, "text_width": 4096, "design": "2.3",
    },
    "tiny": {
        "layers": 2, "num_heads": 4, "head_dim": 16, "mlp_dim": 256,
        "latent_channels": 128, "text_width": 64, "design": "2.0",
    },
}
# fmt: on


class _Backbone(VariantBackbone):
    """Base configuration of LTX-Video and LTX-2."""

    trained_with: ClassVar[TrainedWith]

    variant: str
    layers: int = variant_size(gt=0)
    num_heads: int = variant_size(gt=0)
    head_dim: int = variant_size(gt=0, multiple_of=2)
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    latent_channels: int = variant_size(gt=0)
    text_width: int = variant_size(gt=0)
    fps: float = Field(25.0, gt=0)
    """Images a second: the model knows the time of a frame in seconds."""

    @property
    def traits(self) -> Traits:
        return Traits(
            depth=self.layers,
            width=self.num_heads * self.head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            experts=True,
            latent_channels=self.latent_channels,
            text_width=self.text_width,
            patch_size=(1, 1, 1),
            trained_with=TrainedWith() if self.variant == "tiny" else self.trained_with,
        )


class LTX(_Backbone):
    """LTX-Video 0.9, a video diffusion transformer that reads its text by cross-attention."""

    license = "LTXV Open Weights License; OpenRAIL-M before 0.9.6"
    source = "https://github.com/Lightricks/LTX-Video"
    sizes = SIZES
    trained_with = TrainedWith(vae="ltx", text_encoder="t5-xxl")

    name: Literal["ltx"] = "ltx"
    variant: Literal["0.9-2b", "0.9.7-13b", "tiny"] = "0.9-2b"
    """Sets every size that is not written. 0.9-2b covers all models of that size, 0.9.0 to
    0.9.8; `tiny` is for tests."""
    causal_times: bool = True
    """True for 0.9.5 and later: latent f begins at image 8f - 7, the first at 0. False for 0.9.0
    and 0.9.1: at image 8f."""
    views: int = Field(0, ge=0)
    """Camera views it has embeddings for, where each is a clip by itself (3 in GE-base, arXiv
    2508.05635); 0 for LTX-Video as published."""
    cross_view_stride: int = Field(3, gt=0)
    """With views: tokens attend across views in one of so many blocks, from the first on."""

    @property
    def traits(self) -> Traits:
        views = {"views": self.views, "cross_view_stride": self.cross_view_stride}
        return super().traits.model_copy(update=views if self.views else {})

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.LTX

    def tiny(self) -> LTX:
        return LTX(
            variant="tiny",
            latent_channels=self.latent_channels,
            fps=self.fps,
            causal_times=self.causal_times,
            views=self.views,
            cross_view_stride=self.cross_view_stride,
        )

    def variations(self) -> Sequence[Part]:
        plain = {"views": 0, "cross_view_stride": 3}
        return [self.model_copy(update=plain if self.views else {"views": 3})]

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        if not self.views and self.cross_view_stride != 3:
            yield Conflict(
                between=("backbone.cross_view_stride", "backbone.views"),
                why="a stride of blocks that attend across views, and no embeddings of views",
                hint="set backbone.views to the number of cameras, or leave "
                "backbone.cross_view_stride out",
            )

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import LTXStack

        return LTXStack(self, width, mlp_dim)

    def layouts(self) -> Sequence[Any]:
        from .weights import LTX_DIALECTS

        return LTX_DIALECTS

    def build(self) -> Any:
        from .backbone import LTXBackbone

        return self.materialize(lambda: LTXBackbone(self))


class LTX2(_Backbone):
    """The video half of LTX-2, without audio and without attention to audio."""

    license = "LTX-2 Community License"
    source = "https://github.com/Lightricks/LTX-2"
    sizes = SIZES_2
    trained_with = TrainedWith(vae="ltx2", text_encoder="gemma-3-12b")  # and connectors: no part

    name: Literal["ltx2"] = "ltx2"
    variant: Literal["2.0", "2.3", "tiny"] = "2.0"
    """Sets every size that is not written; `tiny` is for tests."""
    design: Literal["2.0", "2.3"] = variant_size()
    """2.3 adds a gate for each head and lets noise levels modulate the cross-attention; no
    layer projects the text, which is published as wide as the model."""
    fps: float = Field(24.0, gt=0)
    """Images a second: the model knows the time of a frame in seconds."""

    @classmethod
    def published(cls) -> Sequence[Published]:
        return published.LTX2

    def tiny(self) -> LTX2:
        return LTX2(
            variant="tiny",
            latent_channels=self.latent_channels,
            design=self.design,
            fps=self.fps,
        )

    def variations(self) -> Sequence[Part]:
        other = "2.0" if self.design == "2.3" else "2.3"
        return [self.model_copy(update={"design": other})]

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import LTX2Stack

        return LTX2Stack(self, width, mlp_dim)

    def layouts(self) -> Sequence[Any]:
        from .weights import LTX2_DIALECTS

        return LTX2_DIALECTS

    def build(self) -> Any:
        from .backbone import LTX2Backbone

        return self.materialize(lambda: LTX2Backbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(LTX)
    add(LTX2)
    add(LTXVAE)
    add(LTX2VAE)
