"""How the config.json of diffusers' Cosmos transformer becomes sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wamkit.config.config_values import flag, float_tuple, integer, number
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError


def _read(config: Config, folder: Path) -> dict[str, Any]:
    num_heads, head, out = (
        integer(config, key)
        for key in ("num_attention_heads", "attention_head_dim", "out_channels")
    )
    if integer(config, "in_channels") != out + 1:
        raise WamkitError(
            f"in_channels is {config['in_channels']}, expected {out + 1}: latents and a mask of "
            "what is given",
            "name a Video2World model; Text2Image ones take no frames",
        )
    projected = flag(config, "use_crossattn_projection")
    projected_width = integer(config, "encoder_hidden_states_channels", 1024)
    return {
        "layers": integer(config, "num_layers"),
        "num_heads": num_heads,
        "head_dim": head,
        "mlp_dim": int(number(config, "mlp_ratio") * num_heads * head),
        "modulation_rank": integer(config, "adaln_lora_dim"),
        "latent_channels": out,
        "text_width": projected_width if projected else integer(config, "text_embed_dim"),
        "text_stack": integer(config, "crossattn_proj_in_channels") if projected else 0,
        "rope_scale": float_tuple(config, "rope_scale"),
    }


TRANSFORMER = (
    Published(
        ("CosmosTransformer3DModel",),
        _read,
        fixed={
            "patch_size": (1, 2, 2),
            "concat_padding_mask": True,
            "extra_pos_embed_type": None,
            "img_context_dim_in": None,
            "controlnet_block_every_n": None,
        },
    ),
)
