"""The specs of the released checkpoints, as tables; `examples/fastwam*.toml` are the same."""

from __future__ import annotations

from typing import Any

WAN = "hf:Wan-AI/Wan2.2-TI2V-5B-Diffusers"
"""Where VAE and text encoder are published."""
ROWS = ("min", "max", "mean", "std", "q01", "q99")
"""Rows of statistics."""
PROMPT = (
    "A video recorded from a robot's point of view executing the following instruction: "
    "{instruction}"
)
SCALING: dict[str, Any] = {"constant_range": 1e-4, "constants": "min", "std_epsilon": 1e-8}
"""What their normalizer does about dimensions that hardly vary."""
_FLOW: dict[str, Any] = {"shift": 5.0, "loss_weighting": "bell", "steps": 10}
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
            {"name": "image", "size": [224, 224], "fit": "cover", "rounding": "uint8"},
            {"name": "wrist_image", "size": [224, 224], "fit": "cover", "rounding": "uint8"},
        ],
    },
}
ROBOTWIN: dict[str, Any] = {
    **_COMMON,
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
            {"name": "cam_high", "size": [256, 320], "rounding": "uint8"},
            {"name": "cam_left_wrist", "size": [128, 160], "rounding": "uint8"},
            {"name": "cam_right_wrist", "size": [128, 160], "rounding": "uint8"},
        ],
    },
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
}
"""variant -> what it changes in the release's spec."""
