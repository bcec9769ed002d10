"""The specs of the released checkpoints, as tables; `examples/light_wam*.toml` are the same."""

from __future__ import annotations

from typing import Any

from wamkit.checkpoints.robot_run import PROMPT, robot_tables

T_SHAPE = ((256, 320), (128, 160), (128, 160))
"""Sizes of the views of RoboTwin, which are fixed in the code: head, left and right wrist."""
_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "backbone": {"name": "wan", "variant": "2.1-t2v-1.3b"},
    "vae": {"name": "wan2.1"},
    "text_encoder": {
        "name": "umt5-xxl",
        "max_length": 128,
        "padding": "zeros",
        "prompt_template": PROMPT,
    },
    "action_head": {"name": "state_fusion", "layers": [8, 16, 24], "first_steps": 8},
    "paradigm": {"name": "single_pass", "target_context": "downscaled"},
    "video": {
        "num_frames": 9,
        "frame_stride": 4,
        "target_downscale": 2,
        "target_pooling": "latents",
    },
    "schedules": {"video": {"shift": 5.0, "loss_weighting": "bell", "bf16_timesteps": True}},
}
LIBERO: dict[str, Any] = {**_COMMON, **robot_tables("libero", 32, [(224, 224)] * 2)}
ROBOTWIN: dict[str, Any] = {
    **_COMMON,
    "action_head": {**_COMMON["action_head"], "first_steps": 24},
    **robot_tables("robotwin", 32, T_SHAPE, recorded_size=[240, 320]),
}
