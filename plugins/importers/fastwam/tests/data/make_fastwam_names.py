"""Record the names and shapes of the released checkpoints of Fast-WAM, at their published size.

Run it inside a checkout of https://github.com/yuantianyuan01/FastWAM (commit 45d8e14) as
`PYTHONPATH=src python make_fastwam_names.py OUT.json`, with torch, einops and omegaconf. The
authors' own classes are built without weights; sizes are those of `configs/model/fastwam.yaml` and
of the two data sets. Uncond, Joint and IDM save the same tensors. The blocks of an expert hold the
same tensors: those of one stand for all 30.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from typing import Any

import torch
from fastwam.models.wan22.action_dit import ActionDiT
from fastwam.models.wan22.mot import MoT
from fastwam.models.wan22.wan_video_dit import WanVideoDiT
from omegaconf import OmegaConf

SIZES = {"libero": (7, 8), "robotwin": (14, 14)}
"""Data set -> sizes of an action and of a state."""


def state(action: int, proprio: int) -> dict[str, list[int]]:
    """Name -> shape of what `FastWAM.save_checkpoint` writes."""
    settings = OmegaConf.load("configs/model/fastwam.yaml")
    tables: dict[str, dict[str, Any]] = {}
    for kind in ("video_dit_config", "action_dit_config"):
        raw = OmegaConf.to_container(settings[kind], resolve=False)
        tables[kind] = raw | {"action_dim": action, "use_gradient_checkpointing": False}
    with torch.device("meta"):
        video = WanVideoDiT(**tables["video_dit_config"])
        experts = {"video": video, "action": ActionDiT(**tables["action_dit_config"])}
        mot = MoT(experts, mot_checkpoint_mixed_attn=False)
        encoder = torch.nn.Linear(proprio, tables["video_dit_config"]["text_dim"])
    found = {f"mot.{k}": list(v.shape) for k, v in mot.state_dict().items()}
    return found | {f"proprio_encoder.{k}": list(v.shape) for k, v in encoder.state_dict().items()}


def folded(shapes: dict[str, list[int]]) -> dict[str, list[int]]:
    """The shapes with "*" for the number of a block."""
    found: dict[str, list[int]] = {}
    counts: Counter[str] = Counter()
    for name, shape in shapes.items():
        key = re.sub(r"\.blocks\.\d+\.", ".blocks.*.", name)
        assert found.setdefault(key, shape) == shape, name
        counts[key] += 1
    assert {n for k, n in counts.items() if "*" in k} == {30}
    return found


def main(out: str) -> None:
    tables = {name: folded(state(*sizes)) for name, sizes in SIZES.items()}
    with open(out, "w", encoding="utf-8") as file:
        json.dump(tables, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
