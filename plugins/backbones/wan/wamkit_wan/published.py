"""How Wan's published config.json files become sizes: diffusers' and the original ones."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wamkit.config.config_values import integer
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError
from wamkit.files.locate import weight_files
from wamkit.files.safetensors_header import header

from .latents import WAN21_MEAN, WAN21_STD, WAN22_MEAN, WAN22_STD

EXPERTS = ("high_noise_model", "low_noise_model", "transformer_2")


def _diffusers(config: Config, folder: Path) -> dict[str, Any]:
    channels = integer(config, "in_channels")
    out = integer(config, "out_channels", channels)
    return {
        "layers": integer(config, "num_layers"),
        "num_heads": integer(config, "num_attention_heads"),
        "head_dim": integer(config, "attention_head_dim"),
        "mlp_dim": integer(config, "ffn_dim"),
        "latent_channels": out,
        "cond_channels": channels - out,
        "text_width": integer(config, "text_dim"),
        "cond_embeds_width": integer(config, "image_dim", 0, least=0),
    }


def _original(config: Config, folder: Path) -> dict[str, Any]:
    if config.get("model_type") not in ("t2v", "i2v", "ti2v"):
        raise WamkitError(
            f"model_type is {config.get('model_type')!r}, expected t2v, i2v or ti2v",
            "other members of the family take conditions that are not built here",
        )
    return {
        "layers": integer(config, "num_layers"),
        "num_heads": integer(config, "num_heads"),
        "head_dim": integer(config, "dim") // integer(config, "num_heads"),
        "mlp_dim": integer(config, "ffn_dim"),
        "latent_channels": integer(config, "out_dim"),
        "cond_channels": integer(config, "in_dim") - integer(config, "out_dim"),
        "text_width": integer(config, "text_dim", 4096),
        "cond_embeds_width": 1280 if _reads_images(config, folder) else 0,
    }


def _reads_images(config: Config, folder: Path) -> bool:
    """Whether CLIP tokens are taken: 2.1's image-to-video does, 2.2's experts do not."""
    if config["model_type"] != "i2v" or folder.name in EXPERTS:
        return False
    try:
        files = [f for f in weight_files(folder) if f.suffix == ".safetensors"]
        return any("img_emb." in name for file in files for name in header(file)) or not files
    except WamkitError:
        return True


def _experts(config: Config, folder: Path) -> dict[str, Any]:
    """The variant with two transformers, where both are there."""
    if not any((folder.parent / name).is_dir() for name in EXPERTS):
        return {}
    has_cond_channels = integer(config, "in_channels", integer(config, "in_dim", 16)) > 16
    return {"variant": "2.2-i2v-a14b" if has_cond_channels else "2.2-t2v-a14b"}


TRANSFORMER = (
    Published(
        ("WanTransformer3DModel",),
        _diffusers,
        _experts,
        {
            "patch_size": (1, 2, 2),
            "freq_dim": 256,
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
            "eps": 1e-6,
            "pos_embed_seq_len": None,
        },
    ),
    Published(
        ("WanModel",),
        _original,
        _experts,
        {
            "patch_size": (1, 2, 2),
            "freq_dim": 256,
            "cross_attn_norm": True,
            "qk_norm": True,
            "eps": 1e-6,
            "window_size": (-1, -1),
        },
    ),
)


def _width(config: Config, published: tuple[int, int], tiny: tuple[int, int]) -> Mapping[str, Any]:
    base = integer(config, "base_dim")
    widths = (base, integer(config, "decoder_base_dim", base))
    known = {published: "published", tiny: "tiny"}
    if widths not in known:
        raise WamkitError(
            f"its encoder and decoder are {widths[0]} and {widths[1]} channels wide, expected "
            f"{published[0]} and {published[1]}",
            "name the published VAE",
        )
    return {"width": known[widths]}


_BLOCKS = {
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "temperal_downsample": (False, True, True),
    "attn_scales": (),
}
VAE21 = (
    Published(
        ("AutoencoderKLWan", "AutoencoderKLQwenImage"),
        lambda config, folder: _width(config, (96, 96), (4, 4)),
        fixed={
            **_BLOCKS,
            "z_dim": 16,
            "is_residual": False,
            "patch_size": None,
            "latents_mean": WAN21_MEAN,
            "latents_std": WAN21_STD,
        },
    ),
)
VAE22 = (
    Published(
        ("AutoencoderKLWan",),
        lambda config, folder: _width(config, (160, 256), (4, 6)),
        fixed={
            **_BLOCKS,
            "z_dim": 48,
            "is_residual": True,
            "patch_size": 2,
            "latents_mean": WAN22_MEAN,
            "latents_std": WAN22_STD,
        },
    ),
)
