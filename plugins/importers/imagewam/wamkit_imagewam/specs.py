"""The specs of the released checkpoints, as tables; `examples/image_wam*.toml` are the same."""

from __future__ import annotations

from typing import Any

from wamkit.checkpoints.robot_run import PROMPT, robot_tables

_FLOW: dict[str, Any] = {"shift": 5.0, "loss_weighting": "bell", "bf16_timesteps": True}
_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "backbone": {"name": "flux2", "variant": "klein-4b", "text_sigma": "target_or_clean"},
    "vae": {"name": "flux2"},
    "text_encoder": {
        "name": "qwen3",
        "embedding": 2560,
        "padding": "mask",
        "prompt_template": PROMPT,
    },
    "action_head": {
        "name": "mot",
        "block": "backbone",
        "width": 1024,
        "mlp_dim": 4096,
        "state": "text",
        "positions": "rows",
        "decoder": "modulated",
        "init": "from_backbone",
    },
    "paradigm": {"name": "image_edit", "training_level": "target"},
    "video": {"num_frames": 2, "frame_stride": 16},
    "schedules": {"video": {**_FLOW, "loss_weight": 0.5}, "action": {**_FLOW, "steps": 10}},
}
LIBERO: dict[str, Any] = {
    **_COMMON,
    **robot_tables("libero", 16, [(224, 224)] * 2, fit="cover", rounding="uint8"),
}
ROBOTWIN: dict[str, Any] = {
    **_COMMON,
    **robot_tables("robotwin", 16, [(192, 256), (96, 128), (96, 128)], rounding="uint8"),
}
SIZES: dict[str, dict[str, Any]] = {
    "klein-4b": {"double_layers": 5, "single_layers": 20, "num_heads": 24, "head_dim": 128},
    "klein-9b": {"double_layers": 8, "single_layers": 24, "num_heads": 32, "head_dim": 128},
}
"""Variant of the backbone -> the sizes it is recognized by."""
ENCODERS = {"klein-4b": (2560, "hf:Qwen/Qwen3-4B"), "klein-9b": (4096, "hf:Qwen/Qwen3-8B")}
"""Variant -> hidden size and place of its text encoder."""
KLEIN = {
    "klein-4b": "hf:black-forest-labs/FLUX.2-klein-base-4B",
    "klein-9b": "hf:black-forest-labs/FLUX.2-klein-base-9B",
}
"""Variant -> place of the image network before it was trained on robots, and of the VAE."""
