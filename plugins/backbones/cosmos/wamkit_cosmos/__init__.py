"""Cosmos-Predict2 and 2.5 as configuration: sizes of the video backbone, and how it is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

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

Variant = Literal["predict2-2b", "predict2-14b", "predict2.5-2b", "tiny"]

# fmt: off
SIZES: dict[str, dict[str, Any]] = {
    "predict2-2b": {
        "layers": 28, "num_heads": 16, "head_dim": 128, "mlp_dim": 8192, "modulation_rank": 256,
        "latent_channels": 16, "text_width": 1024, "text_stack": 0, "rope_scale": (1.0, 3.0, 3.0),
    },
    "predict2-14b": {
        "layers": 36, "num_heads": 40, "head_dim": 128, "mlp_dim": 20480, "modulation_rank": 256,
        "latent_channels": 16, "text_width": 1024, "text_stack": 0,
        "rope_scale": (20 / 24, 2.0, 2.0),
    },
    "predict2.5-2b": {
        "layers": 28, "num_heads": 16, "head_dim": 128, "mlp_dim": 8192, "modulation_rank": 256,
        "latent_channels": 16, "text_width": 1024, "text_stack": 100352,
        "rope_scale": (1.0, 3.0, 3.0),
    },
    "tiny": {
        "layers": 3, "num_heads": 3, "head_dim": 24, "mlp_dim": 96, "modulation_rank": 8,
        "latent_channels": 16, "text_width": 32, "text_stack": 0, "rope_scale": (1.0, 3.0, 3.0),
    },
}
# fmt: on


PREDICT2 = TrainedWith(vae="wan2.1", text_encoder="t5-11b")
TRAINED_WITH = {
    "predict2-2b": PREDICT2,
    "predict2-14b": PREDICT2,
    "predict2.5-2b": TrainedWith(vae="wan2.1", text_encoder="qwen2.5-vl"),
}


class Cosmos(VariantBackbone):
    """Cosmos-Predict2 or 2.5 (Video2World), trained to continue clean frames it is given."""

    license: ClassVar[str] = "NVIDIA Open Model License"
    source = (
        "https://github.com/nvidia-cosmos/cosmos-predict2 and "
        "https://github.com/nvidia-cosmos/cosmos-predict2.5"
    )
    sizes = SIZES

    name: Literal["cosmos"] = "cosmos"
    variant: Variant = "predict2-2b"
    """Sets every size below that is not written; `tiny` is for tests."""
    layers: int = variant_size(gt=0)
    num_heads: int = variant_size(gt=0)
    head_dim: int = variant_size(ge=12, multiple_of=2)
    mlp_dim: int = variant_size(gt=0)
    """Width inside the feed-forward of a block."""
    modulation_rank: int = variant_size(gt=0)
    """Width between the two matrices that make shift, scale and gate of a noise level."""
    latent_channels: int = variant_size(gt=0)
    text_width: int = variant_size(gt=0)
    """Width of the text tokens that the blocks attend to."""
    text_stack: int = variant_size(ge=0)
    """Width of the embeddings where a layer first brings them to `text_width`: in 2.5, the 28
    hidden states of the reasoning model side by side. 0 for embeddings of `text_width`."""
    rope_scale: tuple[float, float, float] = variant_size()
    """How much farther rotary positions of time, rows and columns reach; it depends on the
    images a file was trained on."""
    context_sigma: float = Field(1e-4, ge=0, lt=1)
    """Noise level that context frames of sigma 0 are announced with: 1e-4 in the published
    pipelines. 0 is the exact level of clean frames."""
    given_frames: Literal["observed", "clean"] = "observed"
    """Frames that the mask channel marks as given: those that were observed, or all whose noise
    level is 0, so that an action, a state to come and imagined frames condition the others too
    (Cosmos Policy, arXiv 2601.16163)."""
    fps: float | None = Field(None, gt=0)
    """Images a second, to which times are scaled, 24 being the measure. Left open, time
    is counted in latent frames, as published Video2World models were trained."""
    qk_norm_eps: float = Field(1e-6, gt=0)
    """Epsilon of the norms of queries and keys: 1e-6 in the original, 1e-5 in diffusers."""

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
            text_width=self.text_stack or self.text_width,
            trained_with=TRAINED_WITH.get(self.variant, TrainedWith()),
        )

    @classmethod
    def published(cls) -> Sequence[Published]:
        return TRANSFORMER

    def tiny(self) -> Cosmos:
        return Cosmos(
            variant="tiny",
            latent_channels=self.latent_channels,
            text_stack=56 if self.text_stack else 0,
            rope_scale=self.rope_scale,
            context_sigma=self.context_sigma,
            given_frames=self.given_frames,
            fps=self.fps,
            qk_norm_eps=self.qk_norm_eps,
        )

    def expert(self, width: int, mlp_dim: int) -> Any:
        from .expert import CosmosStack

        return CosmosStack(self, width, mlp_dim)

    def layouts(self) -> Sequence[Any]:
        from .weights import LAYOUTS

        return LAYOUTS

    def build(self) -> Any:
        from .backbone import CosmosBackbone

        return self.materialize(lambda: CosmosBackbone(self))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(Cosmos)
