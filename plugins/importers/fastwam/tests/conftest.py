"""Tiny checkpoints of Fast-WAM in the published layout, and what an import makes of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from wamkit.policy.importing import plan_import
from wamkit.policy.policy import Policy
from wamkit.testing.recorded import part_of, read_record

PARTS = (
    *("backbone.variant=tiny", "backbone.latent_channels=48", "dtype=float32"),
    *("vae.name=pixel_shuffle", "vae.strides=[4,2,2]", "text_encoder.name=bytes"),
    *("text_encoder.max_length=128", "schedules.action.steps=4"),
)
RECORD = Path(__file__).parent / "data" / "fastwam_runs.safetensors"
CAMERAS = {
    "libero": ("image", "wrist_image"),
    "robotwin": ("cam_high", "cam_left_wrist", "cam_right_wrist"),
}
TARGETS = {"uncond": "", "joint": "_joint", "idm": "_idm", "optional_idm": "_optional_idm"}
"""Variant -> how the function that makes it ends."""


def settings(release: str, variant: str) -> dict[str, Any]:
    """The run's `config.yaml`, tiny."""
    action, state = (4, 3) if release == "libero" else (14, 14)
    size = [3, 32, 24] if release == "libero" else [3, 240, 320]
    mask = {"delta_action_dim_mask": {"default": [True] * 3 + [False]}}
    mode = "min/max" if release == "libero" else "z-score"
    return {
        "mixed_precision": "no",
        "model": {
            "_target_": f"fastwam.runtime.create_fastwam{TARGETS[variant]}",
            "video_dit_config": {
                "num_heads": 2,
                "attn_head_dim": 12,
                "num_layers": 2,
                "ffn_dim": 32,
                "text_dim": 16,
                "in_dim": 48,
                "out_dim": 48,
            },
            "action_dit_config": {"hidden_dim": 20, "ffn_dim": 24, "action_dim": action},
            "video_scheduler": {"infer_shift": 5.0},
            "action_scheduler": {"infer_shift": 1.0 if variant == "optional_idm" else 5.0},
        },
        "data": {
            "train": {
                "shape_meta": {
                    "images": [{"key": name, "shape": size} for name in CAMERAS[release]],
                    "action": [{"key": "default", "raw_shape": action, "shape": action}],
                    "state": [{"key": "default", "raw_shape": state, "shape": state}],
                },
                "num_frames": 9,
                "action_video_freq_ratio": 1,
                "concat_multi_camera": "horizontal" if release == "libero" else "robotwin",
                "context_len": 128,
                "processor": {"norm_default_mode": mode, **(mask if release == "libero" else {})},
            }
        },
    }


@pytest.fixture(scope="session")
def record() -> dict[str, Tensor]:
    """Weights, whole runs and levels of the authors' code."""
    return read_record(RECORD)


@pytest.fixture(scope="session")
def import_tiny(record: dict[str, Tensor]) -> Callable[..., Policy]:
    """A function of a folder, a release, a variant and more --set: the policy of an import."""

    def imported(
        folder: Path,
        release: str,
        variant: str,
        *options: str,
        statistics: bool = True,
        **model: Any,
    ) -> Policy:
        """`model` are more settings of the model; without statistics, values are normalized."""
        weights = part_of(record, "weights/") | part_of(record, f"{release}/weights/")
        encoder = {k: weights.pop(f"proprio_encoder.{k}") for k in ("weight", "bias")}
        mot = {k.removeprefix("mot."): v for k, v in weights.items()}
        name = f"{release}_{variant}"
        torch.save(
            {"mot": mot, "proprio_encoder": encoder, "step": 7, "torch_dtype": "torch.bfloat16"},
            folder / f"{name}.pt",
        )
        tables: dict[str, Any] = {"action": {"default": {}}, "state": {"default": {}}}
        for key, value in part_of(record, f"{release}/statistics/").items():
            kind, row = key.split("/")
            tables[kind]["default"][row] = value.tolist()
        if statistics:
            (folder / f"{name}_dataset_stats.json").write_text(json.dumps(tables))
        found = settings(release, variant)
        found["model"] |= model
        (folder / "config.yaml").write_text(json.dumps(found))
        steps = () if variant == "uncond" else ("schedules.video.steps=4",)
        plan = plan_import(folder / f"{name}.pt", None, (*PARTS, *steps, *options))
        return Policy.load(plan.write(folder / "policy", random_parts=True))

    return imported
