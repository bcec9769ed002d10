"""How the config.json files of diffusers' LTX transformers and VAEs become sizes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wamkit.config.config_values import flag, integer
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError


def _read(config: Config, folder: Path) -> dict[str, Any]:
    num_heads, head = integer(config, "num_attention_heads"), integer(config, "attention_head_dim")
    channels = integer(config, "in_channels")
    if integer(config, "out_channels", channels) != channels:
        raise WamkitError(
            f"it makes {config['out_channels']} channels of {channels}",
            "name a model that denoises the latents that it is given",
        )
    if integer(config, "cross_attention_dim", num_heads * head) != num_heads * head:
        raise WamkitError(
            f"cross_attention_dim is {config['cross_attention_dim']}, expected {num_heads * head}",
            "name a model whose text tokens have the width of its tokens",
        )
    return {
        "layers": integer(config, "num_layers"),
        "num_heads": num_heads,
        "head_dim": head,
        "mlp_dim": 4 * num_heads * head,
        "latent_channels": channels,
        "text_width": integer(config, "caption_channels"),
    }


def _read_2(config: Config, folder: Path) -> dict[str, Any]:
    newer = (
        flag(config, "gated_attn"),
        flag(config, "cross_attn_mod"),
        not flag(config, "use_prompt_embeddings", True),
    )
    if len(set(newer)) > 1:
        raise WamkitError(
            f"gated_attn, cross_attn_mod and its projection of the text are {list(newer)}, "
            "expected none of them changed (2.0) or all (2.3)",
            "name the files of LTX-2.0 or 2.3",
        )
    sizes = _read(config, folder)
    width = sizes["num_heads"] * sizes["head_dim"]
    return {
        **sizes,
        "text_width": width if newer[0] else sizes["text_width"],
        "design": "2.3" if newer[0] else "2.0",
    }


_FIXED: dict[str, Any] = {
    "patch_size": 1,
    "patch_size_t": 1,
    "activation_fn": "gelu-approximate",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "attention_bias": True,
    "attention_out_bias": True,
    "qk_norm": "rms_norm_across_heads",
}
LTX = (Published(("LTXVideoTransformer3DModel",), _read, fixed=_FIXED),)
LTX2 = (
    Published(
        ("LTX2VideoTransformer3DModel",),
        _read_2,
        fixed={
            **_FIXED,
            "rope_type": "split",
            "use_prompt_adaln_single": True,
            "ff_bias": True,
            "use_keyframes_abs_pos_embedding": False,
            "causal_offset": 1,
            "timestep_scale_multiplier": 1000,
            "vae_scale_factors": (8, 32, 32),
        },
    ),
)


def vae_of(blocks: Mapping[str, Mapping[str, Any]], tiny: Any, name: str) -> tuple[Published, ...]:
    """How a VAE's config.json tells which variant it is, by its tables of blocks."""
    widths = {"published": dict, "tiny": tiny}

    def fill(config: Config, folder: Path) -> dict[str, Any]:
        for variant, table in blocks.items():
            for width, change in widths.items():
                wanted = change(table)
                given = {key: config[key] for key in wanted if key in config}
                if all(_lists(given[key]) == _lists(wanted[key]) for key in given):
                    return {"variant": variant, "width": width}
        return {}

    return (Published((name,), fill, fixed={"scaling_factor": 1.0}),)


def _lists(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple) else value
