"""How the config.json files of FLUX's transformers and VAEs become sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wamkit.config.config_values import flag, int_tuple, integer, number
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError

FLUX2_GUIDANCE = 4.0  # what diffusers' pipeline tells a model that takes a scale


def _stack(config: Config) -> dict[str, Any]:
    return {
        "double_layers": integer(config, "num_layers"),
        "single_layers": integer(config, "num_single_layers"),
        "num_heads": integer(config, "num_attention_heads"),
        "head_dim": integer(config, "attention_head_dim"),
        "text_width": integer(config, "joint_attention_dim"),
    }


def _axes(config: Config, expected: tuple[int, ...]) -> None:
    found = int_tuple(config, "axes_dims_rope", expected)
    if found != expected:
        raise WamkitError(
            f"axes_dims_rope is {list(found)}, expected {list(expected)} for heads of "
            f"{config['attention_head_dim']}",
            "name a model whose positions turn as in the published ones",
        )


def _flux2(config: Config, folder: Path) -> dict[str, Any]:
    head = integer(config, "attention_head_dim")
    _axes(config, (head // 4,) * 4)
    width = integer(config, "num_attention_heads") * head
    return {
        **_stack(config),
        "mlp_dim": int(number(config, "mlp_ratio") * width),
        "latent_channels": integer(config, "in_channels"),
    }


def _guidance(config: Config, folder: Path) -> dict[str, Any]:
    return {"guidance": FLUX2_GUIDANCE} if flag(config, "guidance_embeds") else {}


def _flux1(config: Config, folder: Path) -> dict[str, Any]:
    head = integer(config, "attention_head_dim")
    space = 2 * (7 * head // 32)
    _axes(config, (head - 2 * space, space, space))
    return {
        **_stack(config),
        "mlp_dim": 4 * integer(config, "num_attention_heads") * head,
        "cond_embeds_width": integer(config, "pooled_projection_dim", 0, least=0),
    }


_FIXED = {"patch_size": 1, "out_channels": None}
FLUX2 = (
    Published(
        ("Flux2Transformer2DModel",),
        _flux2,
        _guidance,
        {**_FIXED, "timestep_guidance_channels": 256, "rope_theta": 2000, "eps": 1e-6},
    ),
)
FLUX1 = (
    Published(
        ("FluxTransformer2DModel",),
        _flux1,
        fixed={**_FIXED, "in_channels": 64, "guidance_embeds": True},
    ),
)

_WIDTHS = {
    ((128, 256, 512, 512), 2, 32): "published",
    ((4, 8, 8, 8), 1, 4): "tiny",
}


def _width(config: Config, folder: Path) -> dict[str, Any]:
    found = (
        int_tuple(config, "block_out_channels"),
        integer(config, "layers_per_block"),
        integer(config, "norm_num_groups"),
    )
    if found not in _WIDTHS:
        raise WamkitError(
            f"its stages are {list(found[0])} channels wide, expected {[128, 256, 512, 512]}",
            "name the published VAE",
        )
    return {"width": _WIDTHS[found]}


VAE2 = (
    Published(
        ("AutoencoderKLFlux2",),
        _width,
        fixed={
            "latent_channels": 32,
            "patch_size": (2, 2),
            "decoder_block_out_channels": None,
            "batch_norm_eps": 1e-4,
        },
    ),
)
VAE1 = (
    Published(
        ("AutoencoderKL",),
        _width,
        fixed={
            "latent_channels": 16,
            "scaling_factor": 0.3611,
            "shift_factor": 0.1159,
            "use_quant_conv": False,
            "use_post_quant_conv": False,
        },
    ),
)
