"""The smallest policy that looks, feels and acts, for tests that run one from end to end."""

from __future__ import annotations

from typing import Any

from wamkit.config.spec import PolicySpec, parse


def small_spec(size: int = 32, **changes: Any) -> PolicySpec:
    """A spec for one camera `side` of `size` pixels, with random weights; `changes` are tables."""
    raw: dict[str, Any] = {
        "backbone": {"name": "toy", "depth": 1, "num_heads": 2, "head_dim": 8, "patch_size": 1},
        "vae": {"name": "pixel_shuffle", "strides": [1, size // 2, size // 2]},
        "text_encoder": {"name": "bytes", "max_length": 16},
        "action_head": {"name": "mot", "width": 16, "mlp_dim": 32, "state": "token"},
        "paradigm": {"name": "single_pass"},
        "actions": {"chunk_size": 4, "control_hz": 10, "groups": [{"name": "arm", "size": 2}]},
        "state": {"size": 2, "normalization": "none"},
        "cameras": {"views": [{"name": "side", "size": [size, size]}]},
        "video": {"num_frames": 3, "frame_stride": 2},
        "schedules": {"action": {"steps": 2}, "video": {"steps": 2}},
    }
    return parse({**raw, **changes}).fitted()


def actions(name: str, size: int, **group: Any) -> dict[str, Any]:
    """The table `actions` of chunks of 4 with one group."""
    groups = [{"name": name, "size": size, **group}]
    return {"chunk_size": 4, "control_hz": 10, "groups": groups}
