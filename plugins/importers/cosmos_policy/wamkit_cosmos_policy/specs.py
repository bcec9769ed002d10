"""The specs of the released checkpoints, as tables; `examples/cosmos_policy*.toml` are the same."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from typing import Any

PIXELS: dict[str, Any] = {
    "size": [224, 224],
    "filter": "bicubic",
    "center_crop": 0.9,
    "rounding": "uint8",
}
SIMULATED: dict[str, Any] = {**PIXELS, "flip": "vertical", "jpeg": 95}
FILMED: dict[str, Any] = {**PIXELS, "recorded_size": [256, 256]}
POSE = [{"name": "pose", "size": 6, "kind": "delta"}, {"name": "gripper", "size": 1}]
LOSS = 10.0
"""What the mean loss of all latent frames is multiplied by."""


def table(
    views: Sequence[str],
    pixels: dict[str, Any],
    *,
    chunk: int,
    control_hz: int,
    groups: list[dict[str, Any]],
    state: int,
    steps: int,
) -> dict[str, Any]:
    """The spec of one robot."""
    frames = 2 * len(views) + 5  # with blank, state, action, next state and value
    flow: dict[str, Any] = {
        "timestep_sampling": "lognormal_mix",
        "sampling_args": {"scale": sqrt(frames)},
        "solver": "ab2",
        "spacing": "karras",
        "sigma_max": 80 / 81,
        "sigma_min": 0.8,
        "loss_weighting": "none",
        "steps": steps,
    }
    return {
        "dtype": "bfloat16",
        "backbone": {
            "name": "cosmos",
            "variant": "predict2-2b",
            "context_sigma": 0,
            "given_frames": "clean",
        },
        "vae": {"name": "wan2.1"},
        "text_encoder": {"name": "t5-11b", "padding": "zeros"},
        "action_head": {"name": "latent_slot", "blank": "black"},
        "paradigm": {
            "name": "conditional",
            "context": "open",
            "policy": 0.5,
            "world": 0.25,
            "value": 0.25,
        },
        "actions": {"chunk_size": chunk, "control_hz": control_hz, "groups": groups},
        "state": {"size": state},
        "cameras": {
            "layout": "frame_per_view",
            "clip": "shared",
            "views": [{"name": name, **pixels} for name in views],
        },
        "video": {"num_frames": 2, "frame_stride": chunk},
        "schedules": {
            "video": {**flow, "loss_weight": LOSS * len(views) / frames},
            "action": {**flow, "loss_weight": LOSS / frames},
        },
    }


SPECS: dict[str, dict[str, Any]] = {
    "libero": {
        "conventions": "cosmos_policy",
        **table(
            ("wrist_image", "image"),
            SIMULATED,
            chunk=16,
            control_hz=20,
            groups=POSE,
            state=9,
            steps=5,
        ),
    },
    "robocasa": table(
        ("wrist_image", "left_image", "right_image"),
        SIMULATED,
        chunk=32,
        control_hz=20,
        groups=POSE,
        state=9,
        steps=5,
    ),
    "aloha": table(
        ("left_wrist", "right_wrist", "primary"),
        FILMED,
        chunk=50,
        control_hz=25,
        groups=[{"name": "joints", "size": 14}],
        state=14,
        steps=10,
    ),
}
