"""The specs of the released checkpoints, as tables; `examples/light_wam*.toml` are the same."""

from __future__ import annotations

from typing import Any

PROMPT = (
    "A video recorded from a robot's point of view executing the following instruction: "
    "{instruction}"
)
SCALING: dict[str, Any] = {"constant_range": 1e-4, "constants": "min", "std_epsilon": 1e-8}
"""What their normalizer does about dimensions that hardly vary."""
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
    "schedules": {"video": {"shift": 5.0, "loss_weighting": "bell"}},
}
LIBERO: dict[str, Any] = {
    **_COMMON,
    "actions": {
        "chunk_size": 32,
        "control_hz": 20,
        "clip": 5.0,
        "scaling": SCALING,
        "groups": [
            {"name": "pose", "size": 6, "kind": "delta"},
            {"name": "gripper", "size": 1},
        ],
    },
    "state": {"size": 8, "clip": 5.0, "scaling": SCALING},
    "cameras": {
        "layout": "side_by_side",
        "views": [
            {"name": "image", "size": [224, 224]},
            {"name": "wrist_image", "size": [224, 224]},
        ],
    },
}
ROBOTWIN: dict[str, Any] = {
    **_COMMON,
    "action_head": {**_COMMON["action_head"], "first_steps": 24},
    "actions": {
        "chunk_size": 32,
        "control_hz": 25,
        "clip": 5.0,
        "scaling": SCALING,
        "groups": [
            {"name": "left_arm", "size": 6, "normalization": "mean_std"},
            {"name": "left_gripper", "size": 1, "normalization": "mean_std"},
            {"name": "right_arm", "size": 6, "normalization": "mean_std"},
            {"name": "right_gripper", "size": 1, "normalization": "mean_std"},
        ],
    },
    "state": {"size": 14, "normalization": "mean_std", "clip": 5.0, "scaling": SCALING},
    "cameras": {
        "layout": "t_shape",
        "views": [
            {"name": "cam_high", "size": [256, 320], "recorded_size": [240, 320]},
            {"name": "cam_left_wrist", "size": [128, 160], "recorded_size": [240, 320]},
            {"name": "cam_right_wrist", "size": [128, 160], "recorded_size": [240, 320]},
        ],
    },
}
