"""How the config.json of OmniGen2's own repository becomes sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wamkit.config.config_values import int_tuple, integer, number
from wamkit.config.published import Config, Published
from wamkit.errors import WamkitError


def _read(config: Config, folder: Path) -> dict[str, Any]:
    num_heads, axes = integer(config, "num_attention_heads"), int_tuple(config, "axes_dim_rope")
    width, step = integer(config, "hidden_size"), integer(config, "multiple_of", 256)
    if num_heads * sum(axes) != width:
        raise WamkitError(
            f"{num_heads} heads that turn by {list(axes)} are {num_heads * sum(axes)} wide, and "
            f"hidden_size is {width}",
            "name the files of OmniGen2",
        )
    inner = int(number(config, "ffn_dim_multiplier", 1) * 4 * width)
    return {
        "layers": integer(config, "num_layers"),
        "refiners": integer(config, "num_refiner_layers"),
        "num_heads": num_heads,
        "num_kv_heads": integer(config, "num_kv_heads"),
        "axes": axes,
        "mlp_dim": step * -(-inner // step),
        "latent_channels": integer(config, "in_channels"),
        "text_width": integer(config, "text_feat_dim"),
    }


TRANSFORMER = (
    Published(
        ("OmniGen2Transformer2DModel",),
        _read,
        fixed={"patch_size": 2, "norm_eps": 1e-5, "out_channels": None, "timestep_scale": 1000.0},
    ),
)
