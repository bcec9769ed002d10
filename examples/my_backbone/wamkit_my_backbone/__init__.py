"""The `my_backbone` backbone on paper: sizes, and what follows from them.

Importing this file imports no torch, so that wamkit can list, check and explain a policy quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import BackboneConfig, Part, Traits

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec

WAMKIT_API = 1  # the version of the plugin contract this is written for


class MyBackbone(BackboneConfig):
    """Text and patches in the same blocks, each with attention and feed-forward side by side."""

    license = "Apache-2.0"  # of the published weights; of the code while there are none
    source = "https://arxiv.org/abs/2302.05442"  # where the architecture is described

    # Each field is a key of the [backbone] table of a spec, explained by its docstring.
    name: Literal["my_backbone"] = "my_backbone"
    depth: int = Field(12, gt=0)
    """Number of blocks."""
    num_heads: int = Field(8, gt=0)
    head_dim: int = Field(64, gt=0, multiple_of=8)
    latent_channels: int | None = Field(None, gt=0)
    """Channels of the latents; left open, those of the VAE."""
    text_width: int = Field(512, gt=0)
    """Width of the text embeddings."""
    patch_size: int = Field(2, gt=0)
    """Rows and columns of latents that make one token."""

    @property
    def traits(self) -> Traits:
        """What the rest of a policy must know; a contract test compares it with the network."""
        return Traits(
            depth=self.depth,
            width=self.num_heads * self.head_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_heads,
            head_dim=self.head_dim,
            latent_channels=self.latent_channels or 0,
            text_width=self.text_width,
            patch_size=(1, self.patch_size, self.patch_size),
            text="stream",  # "cross" for a backbone that reads text by cross-attention
        )

    def resolve(self, spec: PolicySpec) -> MyBackbone:
        """Take what was left open from the other parts."""
        channels = self.latent_channels or spec.vae.channels
        return self.model_copy(update={"latent_channels": channels})

    def tiny(self) -> MyBackbone:
        """The same class at a size for tests."""
        size = {"depth": 2, "num_heads": 2, "head_dim": 16, "text_width": 16}
        return self.model_copy(update={**size, "latent_channels": None, "weights": None})

    def build(self) -> Any:
        """Return the network, with the weights at `weights` or with random ones."""
        from .backbone import Transformer

        return self.materialize(lambda: Transformer(self.traits))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Tell wamkit what this plugin offers: one `add` for each part."""
    add(MyBackbone)
