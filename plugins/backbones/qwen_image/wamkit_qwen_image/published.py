"""How the config.json of diffusers' Qwen-Image transformer becomes sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wamkit.config.config_values import flag, int_tuple, integer
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError


def _read(config: Config, folder: Path) -> dict[str, Any]:
    num_heads, head, out = (
        integer(config, key)
        for key in ("num_attention_heads", "attention_head_dim", "out_channels")
    )
    axes = int_tuple(config, "axes_dims_rope")
    if sum(axes) != head or integer(config, "in_channels") != 4 * out:
        raise WamkitError(
            f"heads of {head} turn by {list(axes)}, and {config['in_channels']} channels come in "
            f"for {out}; expected axes that add up to a head, and {4 * out} channels",
            "name the files of Qwen-Image-Edit",
        )
    return {
        "layers": integer(config, "num_layers"),
        "num_heads": num_heads,
        "axes": axes,
        "mlp_dim": 4 * num_heads * head,
        "latent_channels": out,
        "text_width": integer(config, "joint_attention_dim"),
    }


def _variant(config: Config, folder: Path) -> dict[str, Any]:
    """Which of the two published ones; their sizes are the same."""
    if integer(config, "num_layers") != 60:
        return {}
    return {"variant": "edit-2511" if flag(config, "zero_cond_t") else "edit-2509"}


TRANSFORMER = (
    Published(
        ("QwenImageTransformer2DModel",),
        _read,
        _variant,
        {
            "patch_size": 2,
            "guidance_embeds": False,
            "use_additional_t_cond": False,
            "use_layer3d_rope": False,
        },
    ),
)
