"""Tiny checkpoints in the exact layout of released ones, for tests of imports and exports."""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from wamkit.checkpoints.lazy import LazyTensors
from wamkit.checkpoints.safetensors import write
from wamkit.files import strict_json, strict_yaml
from wamkit.policy.importing import plan_import
from wamkit.policy.saving import strip_paths

RECORD = Path(__file__).parent / "data" / "fastwam_tiny.safetensors"
SIZES = (
    *("backbone.variant=tiny", "vae.name=wan2.1", "vae.width=tiny", "dtype=float32"),
    *("text_encoder.name=bytes", "text_encoder.max_length=128"),
)
"""Parts as small as the record; other sizes are in the `config.yaml` of the run."""
SETTINGS: dict[str, Any] = {
    "model": {
        "_target_": "fastwam.runtime.create_fastwam",
        "video_dit_config": {
            "hidden_dim": 24,
            "num_heads": 2,
            "attn_head_dim": 12,
            "num_layers": 2,
            "ffn_dim": 32,
            "text_dim": 16,
            "in_dim": 16,
            "out_dim": 16,
        },
        "action_dit_config": {"hidden_dim": 20, "ffn_dim": 24, "action_dim": 4},
        "video_scheduler": {"train_shift": 5.0, "infer_shift": 5.0},
        "action_scheduler": {"train_shift": 5.0, "infer_shift": 5.0},
    },
    "data": {
        "train": {
            "shape_meta": {
                "images": [{"key": "image", "raw_shape": [3, 64, 96], "shape": [3, 32, 48]}],
                "action": [{"key": "default", "raw_shape": 4, "shape": 4}],
                "state": [{"key": "default", "raw_shape": 3, "shape": 3}],
            },
            "num_frames": 9,
            "action_video_freq_ratio": 1,
            "concat_multi_camera": "horizontal",
            "context_len": 128,
            "processor": {
                "norm_default_mode": "min/max",
                "delta_action_dim_mask": {"default": [True, True, True, False]},
            },
        }
    },
    "eval_num_inference_steps": 10,
}
"""`config.yaml` as a run writes it."""


def fastwam(
    folder: Path, name: str = "libero_uncond_2cam224", settings: dict[str, Any] | None = None
) -> Path:
    """Write a checkpoint of Fast-WAM and its statistics; return the file of weights."""
    folder.mkdir(parents=True, exist_ok=True)
    with safe_open(RECORD, framework="pt") as file:
        state: dict[str, Tensor] = {
            key.removeprefix("weights/"): file.get_tensor(key)
            for key in file.keys()  # noqa: SIM118
            if key.startswith("weights/")
        }
    encoder = {key: state.pop(f"proprio_encoder.{key}") for key in ("weight", "bias")}
    payload = {"mot": state, "proprio_encoder": encoder, "step": 3, "torch_dtype": "torch.float32"}
    torch.save(payload, folder / f"{name}.pt")
    rows = {"min": -1.0, "max": 3.0, "mean": 0.5, "std": 0.4, "q01": -0.9, "q99": 2.5}
    tables = {
        kind: {"default": {f"global_{row}": [value] * size for row, value in rows.items()}}
        for kind, size in (("action", 4), ("state", 3))
    }
    (folder / f"{name}_dataset_stats.json").write_text(json.dumps(tables))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings or SETTINGS))
    return folder / f"{name}.pt"


def set_options(*more: str) -> list[str]:
    """`--set` for every size, and for `more`."""
    return [part for text in (*SIZES, *more) for part in ("--set", text)]


LEROBOT = Path(__file__).parents[1] / "plugins" / "importers" / "fastwam" / "tests" / "data"


def lerobot(folder: Path, **changes: Any) -> Path:
    """Write the policy folder that LeRobot's Fast-WAM saved; `changes` are of its config.json."""
    folder.mkdir(parents=True)
    files: dict[str, dict[str, Tensor]] = {}
    for key, value in load_file(LEROBOT / "lerobot_fastwam_tiny.safetensors").items():
        if key.startswith("json/"):
            (folder / key[5:]).write_bytes(bytes(value.tolist()))
        elif key.startswith("file/"):
            _, file, name = key.split("/")
            files.setdefault(file, {})[name] = value
    for file, tensors in files.items():
        save_file(tensors, folder / file)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return folder


def exportable(folder: Path) -> Path:
    """Write a saved policy that LeRobot's class can hold, but for the files of VAE and text.

    Both are the published ones, which are too large for a test and which no export reads. Its spec
    names a path that is to be trusted.
    """
    own = ("backbone.variant=tiny", "vae.name=pixel_shuffle", "vae.strides=[4,2,2]")
    for name, table in (
        ("text_encoder/config.json", {"model_type": "umt5", "d_model": 16}),
        ("tokenizer/tokenizer.json", {}),
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(json.dumps(table))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = plan_import(lerobot(folder / "source"), None, (*own, "text_encoder.name=bytes"))
    raw = strip_paths(plan.spec).dump()
    template = plan.spec.text_encoder.prompt_template
    raw |= {"vae": {"name": "wan2.2"}, "text_encoder": {
        "name": "umt5-xxl", "embedding": 16, "max_length": 128, "weights": str(folder),
        "prompt_template": template,
    }}  # fmt: skip
    home = folder / "policy"
    home.mkdir()
    for kind, entries in plan.weights.items():
        write(LazyTensors(entries), home / f"{kind}.safetensors")
    tables = {name: asdict(value) for name, value in plan.statistics.items()}
    (home / "statistics.json").write_text(strict_json.dumps(tables))
    (home / "spec.yaml").write_text(strict_yaml.dumps(raw))
    return home
