"""Configurations of the VAEs of LTX-Video and LTX-2, with the block tables of each variant.

The tables are those of diffusers' `scripts/convert_ltx_to_diffusers.py` and
`convert_ltx2_to_diffusers.py`. A variant is named in the spec, so that original files and
saved policies can do without a `config.json`; where there is one, it is read from there, or agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from wamkit.config.parts import Conflict, PublishedVAE
from wamkit.config.published import Published, json_table
from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError
from wamkit.files.hub import cached_path
from wamkit.files.locate import split_prefix

from .published import vae_of

DECODE_SIGMA = 0.05
_COMMON: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 128,
    "patch_size": 4,
    "patch_size_t": 1,
    "resnet_norm_eps": 1e-6,
    "encoder_causal": True,
    "decoder_causal": False,
    "spatial_compression_ratio": 32,
    "temporal_compression_ratio": 8,
}
_WITH_SHORTCUTS: dict[str, Any] = {  # a decoder with shortcuts around what unfolds
    "decoder_spatio_temporal_scaling": [True, True, True],
    "upsample_residual": [True, True, True],
    "upsample_factor": [2, 2, 2],
}
_BY_AXIS: dict[str, Any] = {  # an encoder whose stages fold space, time, or both
    "spatio_temporal_scaling": [True, True, True, True],
    "downsample_type": ["spatial", "temporal", "spatiotemporal", "spatiotemporal"],
}
_FIRST_ENCODER: dict[str, Any] = {
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": [4, 3, 3, 3, 4],
    "down_block_types": ["LTXVideoDownBlock3D"] * 4,
    "spatio_temporal_scaling": [True, True, True, False],
    "downsample_type": ["conv"] * 4,
}

BLOCKS: dict[str, dict[str, Any]] = {
    "0.9.0": {
        **_COMMON,
        **_FIRST_ENCODER,
        "decoder_block_out_channels": [128, 256, 512, 512],
        "decoder_layers_per_block": [4, 3, 3, 3, 4],
        "decoder_spatio_temporal_scaling": [True, True, True, False],
        "decoder_inject_noise": [False] * 5,
        "upsample_residual": [False] * 4,
        "upsample_factor": [1, 1, 1, 1],
        "timestep_conditioning": False,
    },
    "0.9.1": {
        **_COMMON,
        **_FIRST_ENCODER,
        **_WITH_SHORTCUTS,
        "decoder_block_out_channels": [256, 512, 1024],
        "decoder_layers_per_block": [5, 6, 7, 8],
        "decoder_inject_noise": [True, True, True, False],
        "timestep_conditioning": True,
    },
    "0.9.5": {
        **_COMMON,
        **_BY_AXIS,
        **_WITH_SHORTCUTS,
        "block_out_channels": [128, 256, 512, 1024, 2048],
        "layers_per_block": [4, 6, 6, 2, 2],
        "down_block_types": ["LTXVideo095DownBlock3D"] * 4,
        "decoder_block_out_channels": [256, 512, 1024],
        "decoder_layers_per_block": [5, 5, 5, 5],
        "decoder_inject_noise": [False] * 4,
        "timestep_conditioning": True,
    },
}
BLOCKS_2: dict[str, dict[str, Any]] = {
    "2.0": {
        **_COMMON,
        **_BY_AXIS,
        **_WITH_SHORTCUTS,
        "block_out_channels": [256, 512, 1024, 2048],
        "layers_per_block": [4, 6, 6, 2, 2],
        "down_block_types": ["LTX2VideoDownBlock3D"] * 4,
        "decoder_block_out_channels": [256, 512, 1024],
        "decoder_layers_per_block": [5, 5, 5, 5],
        "decoder_inject_noise": [False] * 4,
        "upsample_type": ["spatiotemporal"] * 3,
        "timestep_conditioning": False,
        "encoder_spatial_padding_mode": "zeros",
        "decoder_spatial_padding_mode": "reflect",
    },
    "2.3": {
        **_COMMON,
        **_BY_AXIS,
        "block_out_channels": [256, 512, 1024, 1024],
        "layers_per_block": [4, 6, 4, 2, 2],
        "down_block_types": ["LTX2VideoDownBlock3D"] * 4,
        "decoder_block_out_channels": [256, 512, 512, 1024],
        "decoder_layers_per_block": [4, 6, 4, 2, 2],
        "decoder_spatio_temporal_scaling": [True] * 4,
        "decoder_inject_noise": [False] * 5,
        "upsample_type": ["spatiotemporal", "spatiotemporal", "temporal", "spatial"],
        "upsample_residual": [False] * 4,
        "upsample_factor": [2, 2, 1, 2],
        "timestep_conditioning": False,
        "encoder_spatial_padding_mode": "zeros",
        "decoder_spatial_padding_mode": "zeros",
    },
}

SILENT = (
    "encoder_causal",
    "decoder_causal",
    "encoder_spatial_padding_mode",
    "decoder_spatial_padding_mode",
    "upsample_residual",
    "resnet_norm_eps",
)
"""Settings that leave no trace in the names and shapes of the weights."""


def _tiny(table: Mapping[str, Any]) -> dict[str, Any]:
    """The same blocks 32 times as narrow, each with one layer."""
    new = dict(table)
    for side in ("", "decoder_"):
        new[f"{side}block_out_channels"] = [c // 32 for c in table[f"{side}block_out_channels"]]
        new[f"{side}layers_per_block"] = [1] * len(table[f"{side}layers_per_block"])
    return new


class _VAE(PublishedVAE):
    """Base configuration of the VAEs of LTX-Video and LTX-2."""

    requires = ("diffusers",)
    latent = 128
    strides = (8, 32, 32)
    model: ClassVar[str]
    """Class of diffusers."""

    variant: str

    @property
    def level(self) -> float | None:
        """Noise level that the decoder takes; None for decoders without one."""
        return None

    @property
    def blocks(self) -> dict[str, Any]:
        """Arguments of diffusers' class."""
        table = {**BLOCKS, **BLOCKS_2}[self.variant]
        return _tiny(table) if self.width == "tiny" else dict(table)

    def conflicts(self, spec: PolicySpec) -> Iterator[Conflict]:
        for file in self._config_files():
            try:
                found = json_table(file)
            except WamkitError:
                continue  # a conflict of every part's config.json alike
            wrong = [
                f"{key} = {found[key]} for {self.blocks[key]}"
                for key in SILENT
                if key in found and key in self.blocks and found[key] != self.blocks[key]
            ]
            if wrong:
                yield Conflict(
                    between=("vae.variant", "vae.weights"),
                    why=f"{file} is not that of variant {self.variant} (found for expected): "
                    + "; ".join(wrong),
                    hint="set vae.variant to that of the files; `wamkit show vae "
                    f"{self.name}` lists the variants",
                )

    def _build(self) -> Any:
        from .vae import LTXVideoVAE

        return self.materialize(lambda: LTXVideoVAE(self.model, self.blocks, self.level))

    def _config_files(self) -> list[Path]:
        """The configuration file next to the weights, if there is one."""
        if self.weights is None:
            return []
        root = cached_path(split_prefix(self.weights)[0])
        if root is None:
            return []
        places = (root / "config.json", root / "vae" / "config.json")
        return [place for place in places if place.is_file()]


class LTXVAE(_VAE):
    """The causal video VAE of LTX-Video, through diffusers.

    Decoders of 0.9.1 and later take a noise level, and remove that much noise.
    """

    license = "LTXV Open Weights License; OpenRAIL-M before 0.9.6"
    source = "https://github.com/Lightricks/LTX-Video"
    model = "AutoencoderKLLTXVideo"

    name: Literal["ltx"] = "ltx"
    variant: Literal["0.9.0", "0.9.1", "0.9.5"] = "0.9.5"
    """0.9.5 covers 0.9.5 and all later ones, the 13B models of 0.9.7 and 0.9.8 included."""
    decode_sigma: float = Field(DECODE_SIGMA, ge=0, lt=1)
    """Noise level that the decoder takes its latents for; 0.9.0's takes none."""

    @model_validator(mode="after")
    def _level_matches_decoder(self) -> LTXVAE:
        if self.variant == "0.9.0" and self.decode_sigma != DECODE_SIGMA:
            raise ValueError(
                f"found decode_sigma = {self.decode_sigma} for variant 0.9.0, whose decoder is "
                "given no noise level; leave it out"
            )
        return self

    @classmethod
    def published(cls) -> Sequence[Published]:
        return vae_of(BLOCKS, _tiny, cls.model)

    @property
    def level(self) -> float | None:
        return self.decode_sigma if self.blocks["timestep_conditioning"] else None

    def layouts(self) -> Sequence[Any]:
        from .vae_weights import LAYOUTS

        return LAYOUTS


class LTX2VAE(_VAE):
    """The causal video VAE of LTX-2, through diffusers."""

    license = "LTX-2 Community License"
    source = "https://github.com/Lightricks/LTX-2"
    model = "AutoencoderKLLTX2Video"

    name: Literal["ltx2"] = "ltx2"
    variant: Literal["2.0", "2.3"] = "2.0"

    @classmethod
    def published(cls) -> Sequence[Published]:
        return vae_of(BLOCKS_2, _tiny, cls.model)

    def layouts(self) -> Sequence[Any]:
        from .vae_weights import DIALECTS_2

        return DIALECTS_2
