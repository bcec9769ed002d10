"""The specs of the released checkpoints, as tables; `examples/ge_act*.toml` are the same."""

from __future__ import annotations

from typing import Any

_FLOW: dict[str, Any] = {"shift": 1.0, "loss_weighting": "none"}
_COMMON: dict[str, Any] = {
    "dtype": "bfloat16",
    "backbone": {
        "name": "ltx",
        "variant": "0.9-2b",
        "fps": 30.0,
        "causal_times": False,
        "views": 3,
        "cross_view_stride": 3,
    },
    "vae": {"name": "ltx", "variant": "0.9.1"},
    "text_encoder": {"name": "t5-xxl", "max_length": 128, "padding": "encoded"},
    "action_head": {
        "name": "reader",
        "reads": "each",
        "num_heads": 16,
        "head_dim": 32,
        "mlp_dim": 2048,
        "state": "action_token",
        "positions": "rotary_float32",
    },
    "paradigm": {
        "name": "joint",
        "attends": "action_sees_video",
        "context": "open",
        "refresh": [0],
        "context_noise": 0.01,
    },
    "video": {"num_frames": 13, "num_observed": 4, "observed_latents": "images"},
    "schedules": {
        "video": {**_FLOW, "timestep_sampling": "pure_noise", "loss_weight": 0.0},
        "action": {**_FLOW, "timestep_sampling": "indexed", "steps": 10},
    },
}


def _robot(pose: int, state: int) -> dict[str, Any]:
    """Groups of an action and the state that is predicted with it, and the state."""
    groups = [("pose", pose, "delta"), ("gripper", 1, "absolute"), ("state", state, "state")]
    return {
        "groups": [
            {"name": name, "size": size, "kind": kind, "normalization": "quantile"}
            for name, size, kind in groups
        ]
    }


def _views(*names: str, **steps: Any) -> dict[str, Any]:
    """Cameras, and more keys of every view."""
    return {
        "layout": "clip_per_view",
        "views": [{"name": name, "size": [256, 256], **steps} for name in names],
    }


_STATE: dict[str, Any] = {"normalization": "quantile", "clip": 1000.0}
LIBERO: dict[str, Any] = {
    **_COMMON,
    "conventions": "ge_act",
    "actions": {"chunk_size": 36, "control_hz": 20, **_robot(6, 8)},
    "state": {"size": 8, **_STATE},
    "cameras": _views("image", "wrist_image"),
    "video": {**_COMMON["video"], "frame_stride": 4, "observed_stride": 24},
}
CALVIN: dict[str, Any] = {
    **_COMMON,
    "actions": {"chunk_size": 54, "control_hz": 30, **_robot(6, 15)},
    "state": {"size": 15, **_STATE},
    "cameras": _views(
        "observation.images.top", "observation.images.wrist", rounding="opencv", antialias=False
    ),
    "video": {**_COMMON["video"], "frame_stride": 6, "observed_stride": 8},
}
RELEASES: dict[str, dict[str, Any]] = {"libero": LIBERO, "calvin": CALVIN}
