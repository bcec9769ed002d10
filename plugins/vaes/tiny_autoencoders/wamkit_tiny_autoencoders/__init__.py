"""Tiny autoencoders as configuration: three for video latents and one for image latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from wamkit.config.config_values import int_tuple
from wamkit.config.hooks import hookimpl
from wamkit.config.parts import Part, PublishedVAE
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError

WAMKIT_API = 1


def _width(config: Config, folder: Path) -> dict[str, Any]:
    widths = {
        *int_tuple(config, "encoder_block_out_channels"),
        *int_tuple(config, "decoder_block_out_channels"),
    }
    if widths not in ({64}, {6}):
        raise WamkitError(
            f"its stages are {sorted(widths)} channels wide, expected 64", "name madebyollin/taef1"
        )
    return {"width": "published" if widths == {64} else "tiny"}


TAEF1_CONFIG = Published(
    ("AutoencoderTiny",),
    _width,
    fixed={
        "latent_channels": 16,
        "num_encoder_blocks": (1, 3, 3, 3),
        "num_decoder_blocks": (3, 3, 3, 1),
        "scaling_factor": 1.0,
        "shift_factor": 0.0,
    },
)


class _Tiny(PublishedVAE):
    license = "MIT"
    space: ClassVar[str]

    @property
    def latent_space(self) -> str:
        return self.space


class _Video(_Tiny):
    source = "https://github.com/madebyollin/taehv"
    patch: ClassVar[int]
    """Side of the pixel squares that are folded into channels first."""

    def layouts(self) -> Sequence[Any]:
        from .weights import VIDEO

        return VIDEO

    def _build(self) -> Any:
        from .taehv import PUBLISHED, TINY, VideoAutoencoder

        widths = TINY if self.width == "tiny" else PUBLISHED
        return self.materialize(
            lambda: VideoAutoencoder(self.channels, self.stride, self.patch, widths)
        )


class TAEW21(_Video):
    """A tiny video VAE in the latent space of `wan2.1`, that of Cosmos and Qwen-Image too."""

    space = "wan2.1"
    latent = 16
    strides = (4, 8, 8)
    patch = 1

    name: Literal["taew2.1"] = "taew2.1"


class TAEW22(_Video):
    """A tiny video VAE in the latent space of `wan2.2`."""

    space = "wan2.2"
    latent = 48
    strides = (4, 16, 16)
    patch = 2

    name: Literal["taew2.2"] = "taew2.2"


class TAELTX2(_Video):
    """A tiny video VAE in the latent space of `ltx2`; 2.0 and 2.3 have weights of their own."""

    space = "ltx2"
    latent = 128
    strides = (8, 32, 32)
    patch = 4

    name: Literal["taeltx2"] = "taeltx2"


class TAEF1(_Tiny):
    """A tiny image VAE in the latent space of `flux1`: T images are T latents."""

    source = "https://github.com/madebyollin/taesd"
    space = "flux1"
    latent = 16
    strides = (1, 8, 8)

    name: Literal["taef1"] = "taef1"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return (TAEF1_CONFIG,)

    def layouts(self) -> Sequence[Any]:
        from .weights import IMAGE

        return IMAGE

    def _build(self) -> Any:
        from .taef import PUBLISHED, TINY, ImageAutoencoder

        width = TINY if self.width == "tiny" else PUBLISHED
        return self.materialize(lambda: ImageAutoencoder(width))


@hookimpl
def register(add: Callable[[type[Part]], None]) -> None:
    """Add the parts of this plugin to the registry."""
    add(TAEW21)
    add(TAEW22)
    add(TAELTX2)
    add(TAEF1)
