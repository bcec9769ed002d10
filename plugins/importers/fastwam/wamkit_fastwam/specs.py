"""The specs of the released checkpoints, as tables; `examples/fastwam*.toml` are the same."""

from __future__ import annotations

from typing import Any

from wamkit.checkpoints.robot_run import PROMPT, robot_tables

WAN = "hf:Wan-AI/Wan2.2-TI2V-5B-Diffusers"
"""Where VAE and text encoder are published."""
T_SHAPE = ((256, 320), (128, 160), (128, 160))
"""Sizes of the views of RoboTwin, which are fixed in the code: head, left and right wrist."""
_FLOW: dict[str, Any] = {
    "shift": 5.0,
    "loss_weighting": "bell",
    "bf16_timesteps": True,
    "steps": 10,
}
_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "backbone": {"name": "wan", "variant": "2.2-ti2v-5b"},
    "vae": {"name": "wan2.2"},
    "text_encoder": {
        "name": "umt5-xxl",
        "max_length": 128,
        "padding": "zeros",
        "prompt_template": PROMPT,
    },
    "action_head": {
        "name": "mot",
        "width": 1024,
        "mlp_dim": 4096,
        "state": "text",
        "init": "from_backbone",
    },
    "paradigm": {"name": "single_pass"},
    "video": {"num_frames": 9, "frame_stride": 4},
    "schedules": {"video": {k: v for k, v in _FLOW.items() if k != "steps"}, "action": _FLOW},
}
LIBERO: dict[str, Any] = {
    **_COMMON,
    **robot_tables("libero", 32, [(224, 224)] * 2, fit="cover", rounding="uint8"),
}
ROBOTWIN: dict[str, Any] = {
    **_COMMON,
    **robot_tables("robotwin", 32, T_SHAPE, rounding="uint8"),
}
VARIANTS: dict[str, dict[str, Any]] = {
    "uncond": {},
    "joint": {
        "paradigm": {"name": "joint", "attends": "action_sees_video"},
        "schedules": {"video": {"steps": 10}},
    },
    "idm": {
        "paradigm": {"name": "idm", "context_noise_prob": 0.5},
        "schedules": {"video": {"steps": 10}},
    },
    "optional_idm": {
        "paradigm": {"name": "idm", "context_noise_prob": 0.0, "drop_future_prob": 0.5},
        "schedules": {"video": {"steps": 10}, "action": {"shift": 1.0}},
    },
}
"""variant -> what it changes in the release's spec."""
