"""The spec of a robot's configuration; `examples/lingbot_va*.toml` are the same."""

from __future__ import annotations

from typing import Any

from .robots import CHANNELS, Robot


def spec_of(robot: Robot) -> dict[str, Any]:
    """The tables of a spec for the released network on this robot."""
    return {
        "dtype": "bfloat16",
        **({"conventions": robot.conventions} if robot.conventions else {}),
        "backbone": {"name": "wan", "variant": "2.2-ti2v-5b"},
        "vae": {"name": "wan2.2"},
        "text_encoder": {"name": "umt5-xxl", "max_length": 512, "padding": "zeros"},
        "action_head": {
            "name": "shared_stream",
            "embedder": "linear",
            "positions": "grid",
            "levels": "own",
            "final_layer": "final_norm",
            "channels": CHANNELS,
            "channel_map": list(robot.channel_map),
        },
        "paradigm": {
            "name": "autoregressive",
            "chunks": robot.memory + 1,
            "window": 2 * robot.memory - 1,
            "window_unit": "half_blocks",
            "action": "inverse_dynamics",
            "first_frames": "in_block",
            "levels_per": "frame",
            "training_frames": [1, 4],
            "training_window": [4, 64],
            "context_noise_prob": 0.5,
            "on_full_memory": "slide",
        },
        "actions": {
            "chunk_size": robot.frames * robot.actions_per_frame,
            "control_hz": robot.control_hz,
            "clip": 1.5,
            "clip_executed": False,
            "groups": [
                {"name": name, "size": size, "kind": kind, "normalization": "quantile"}
                for name, size, kind in robot.groups
            ],
        },
        "state": {"size": 0},
        "cameras": _cameras(robot),
        "video": {
            "num_frames": 1 + 4 * robot.frames,
            "episode_latents": "stream",
            "frame_stride": max(1, robot.actions_per_frame // 4),
        },
        "schedules": {
            "video": {**_FLOW, "shift": 5.0, "steps": robot.video_steps, "guidance_scale": 5.0},
            "action": {**_FLOW, "shift": robot.action_shift, "steps": robot.action_steps},
        },
    }


_FLOW: dict[str, Any] = {"timestep_sampling": "indexed", "loss_weighting": "bell"}


def _cameras(robot: Robot) -> dict[str, Any]:
    height, width = robot.size
    sizes = [[height, width]] * len(robot.views)
    if robot.inverted_t:
        sizes[1:] = [[height // 2, width // 2]] * (len(robot.views) - 1)
    return {
        "layout": "inverted_t" if robot.inverted_t else "side_by_side",
        "encode": "views",
        "views": [
            {"name": name, "size": size, "antialias": False}
            for name, size in zip(robot.views, sizes, strict=True)
        ],
    }
