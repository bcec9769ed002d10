"""Vision transformers of timm as configuration: sizes of published models, known without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

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
from wamkit.config.spec import PolicySpec

from .published import reader

WAMKIT_API = 1

Variant = Literal[
    "vit_small_patch14_dinov2",
    "vit_base_patch14_dinov2",
    "vit_large_patch14_dinov2",
    "vit_small_patch14_reg4_dinov2",
    "vit_base_patch14_reg4_dinov2",
    "vit_large_patch14_reg4_dinov2",
    "vit_small_patch16_dinov3",
    "vit_base_patch16_dinov3",
    "vit_large_patch16_dinov3",
    "vit_base_patch16_224",
    "vit_base_patch16_224.mae",
    "vit_large_patch16_224.mae",
    "vit_base_patch16_siglip_224",
    "vit_so400m_patch14_siglip_224",
    "vit_so400m_patch14_siglip_378",
    "vit_so400m_patch16_siglip_256",
    "tiny",
]

# fmt: off
_SMALL = {"layers": 12, "num_heads": 6, "head_dim": 64, "mlp_dim": 1536}
_BASE = {"layers": 12, "num_heads": 12, "head_dim": 64, "mlp_dim": 3072}
_LARGE = {"layers": 24, "num_heads": 16, "head_dim": 64, "mlp_dim": 4096}
_SO400M = {"layers": 27, "num_heads": 16, "head_dim": 72, "mlp_dim": 4304}
_PLAIN: dict[str, Any] = {
    "patch_size": 16, "grid": 14, "class_token": True, "registers": 0, "positions": "all",
    "layer_scale": False, "qkv_bias": True, "activation": "gelu", "norm_eps": 1e-6,
    "pixels": "imagenet",
}
_DINO2 = {**_PLAIN, "patch_size": 14, "grid": 37, "layer_scale": True}
_DINO2_REG = {**_DINO2, "registers": 4, "positions": "patches"}
_DINO3 = {
    **_PLAIN, "grid": 0, "registers": 4, "positions": "rotary", "layer_scale": True,
    "qkv_bias": False, "norm_eps": 1e-5,
}
_SIGLIP = {**_PLAIN, "class_token": False, "positions": "patches", "pixels": "half"}

SIZES: dict[str, dict[str, Any]] = {
    "vit_small_patch14_dinov2": {**_SMALL, **_DINO2},
    "vit_base_patch14_dinov2": {**_BASE, **_DINO2},
    "vit_large_patch14_dinov2": {**_LARGE, **_DINO2},
    "vit_small_patch14_reg4_dinov2": {**_SMALL, **_DINO2_REG},
    "vit_base_patch14_reg4_dinov2": {**_BASE, **_DINO2_REG},
    "vit_large_patch14_reg4_dinov2": {**_LARGE, **_DINO2_REG},
    "vit_small_patch16_dinov3": {**_SMALL, **_DINO3},
    "vit_base_patch16_dinov3": {**_BASE, **_DINO3},
    "vit_large_patch16_dinov3": {**_LARGE, **_DINO3},
    "vit_base_patch16_224": {**_BASE, **_PLAIN, "pixels": "half"},
    "vit_base_patch16_224.mae": {**_BASE, **_PLAIN},
    "vit_large_patch16_224.mae": {**_LARGE, **_PLAIN},
    "vit_base_patch16_siglip_224": {**_BASE, **_SIGLIP},
    "vit_so400m_patch14_siglip_224": {**_SO400M, **_SIGLIP, "patch_size": 14, "grid": 16},
    "vit_so400m_patch14_siglip_378": {**_SO400M, **_SIGLIP, "patch_size": 14, "grid": 27},
    "vit_so400m_patch16_siglip_256": {
        **_SO400M, **_SIGLIP, "grid": 16, "activation": "gelu_tanh",
    },
    "tiny": {
        **_DINO2_REG, "layers": 3, "num_heads": 2, "head_dim": 12, "mlp_dim": 40, "patch_size": 4,
        "grid": 4,
    },
}
# fmt: on


class TimmViT(VariantBackbone):
    """A vision transformer of timm: it encodes images, imagines nothing and reads no text.

    Its latents are pixels, cut into patches by the VAE `pixel_shuffle` with strides
    (1, patch, patch). The prompt reaches the policy through the action head.
    """

    license = "Apache-2.0; DINOv3 License for DINOv3, CC-BY-NC-4.0 for MAE"
    source = "https://github.com/huggingface/pytorch-image-models"
    sizes = SIZES

    name: Literal["timm_vit"] = "timm_vit"
    variant: Variant = "vit_base_patch14_reg4_dinov2"
    """timm's name of the model, the tag of its weights left out where it changes no size. Sets
    everything below that is not written, but for text_width; `tiny` is for tests."""
    layers: int = variant_size(gt=0)
    num_heads: int = variant_size(gt=0)
    head_dim: int = variant_size(gt=0, multiple_of=4)
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    patch_size: int = variant_size(gt=0)
    """Pixels on a side of a patch; the VAE's strides must be (1, patch, patch)."""
    grid: int = variant_size(ge=0)
    """Patches on a side of the image that the learned positions belong to; they are interpolated
    to other sizes. 0 where positions are rotary."""
    class_token: bool = variant_size()
    registers: int = variant_size(ge=0)
    """Register tokens behind the class token; every frame has its own."""
    positions: Literal["all", "patches", "rotary"] = variant_size()
    """Learned for every token, learned for patches alone, or rotary as in DINOv3."""
    layer_scale: bool = variant_size()
    """Whether the residual of a block is scaled channel by channel."""
    qkv_bias: bool = variant_size()
    activation: Literal["gelu", "gelu_tanh"] = variant_size()
    norm_eps: float = variant_size(gt=0)
    pixels: Literal["imagenet", "half"] = variant_size()
    """Mean and deviation of the pixels it was trained on: ImageNet's, or 0.5 and 0.5. Weights of
    another tag than the variant's may need the other; see their config.json."""
    text_width: int = Field(64, gt=0)
    """Width of the prompt's embeddings as the action head reads them; the vision transformer
    itself reads none."""

    @model_validator(mode="after")
    def _positions_have_a_grid(self) -> TimmViT:
        if (self.grid == 0) != (self.positions == "rotary"):
            raise ValueError(
                f'positions = "{self.positions}" with grid = {self.grid}: learned positions need '
                "the grid they belong to, rotary ones take none"
            )
        return self

    @property
    def traits(self) -> Traits:
        return Traits(
            depth=self.layers,
            width=self.num_heads * self.head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            mlp_dim=self.mlp_dim,
            latent_channels=3 * self.patch_size**2,
            text_width=self.text_width,
            patch_size=(1, 1, 1),
            frame_tokens=self.class_token + self.registers,
            text="none",
            imagines=False,
            trained_with=TrainedWith(vae="pixel_shuffle"),
        )

    @classmethod
    def published(cls) -> Sequence[Published]:
        return reader(SIZES)

    def tiny(self) -> TimmViT:
        """Few and narrow layers; patches, tokens and positions stay of the same kind."""
        kept = {"layers": 3, "num_heads": 2, "head_dim": 12, "mlp_dim": 40, "weights": None}
        return self.model_copy(update={**kept, "grid": 4 if self.grid else 0})

    def default_parts(self) -> dict[str, dict[str, Any]]:
        return {"vae": {"name": "pixel_shuffle", "strides": [1, self.patch_size, self.patch_size]}}

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        wanted, found = (1, self.patch_size, self.patch_size), tuple(spec.vae.stride)
        if spec.vae.name != "pixel_shuffle" or found != wanted:
            yield Conflict(
                between=("vae", "backbone"),
                why=f"{self.variant} looks at patches of {self.patch_size} x {self.patch_size} "
                "pixels, and "
                f"{spec.vae.name} with strides {list(found)} does not cut images into them",
                hint=f'set vae.name = "pixel_shuffle" and vae.strides = {list(wanted)}',
            )

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .backbone import ViTBackbone

        return self.materialize(lambda: ViTBackbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(TimmViT)
