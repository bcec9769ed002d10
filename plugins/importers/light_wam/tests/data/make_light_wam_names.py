"""Record the names and shapes of a checkpoint of Light-WAM at its published size.

Run it as `make_light_wam_tiny.py`, with OUT.json. The 30 blocks hold the same tensors: those of one
stand for all.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict

import torch
from lightwam.models.wan22.helpers.loader import WAN_VIDEO_BACKBONE_SPECS
from lightwam.models.wan22.mot import MoT
from lightwam.models.wan22.state_fusion_action_expert import StateFusionActionExpert
from lightwam.models.wan22.wan_video_dit import WanVideoDiT
from omegaconf import OmegaConf


def main(out: str) -> None:
    settings = OmegaConf.load("configs/model/lightwam.yaml")
    own, head = settings.wam_adapter, settings.state_fusion_action_expert_config
    sizes = OmegaConf.to_container(settings.video_dit_config, resolve=False)
    sizes |= WAN_VIDEO_BACKBONE_SPECS["wan2_1_t2v"].dit_config_overrides
    sizes |= {"action_dim": 7, "use_gradient_checkpointing": False, "use_wam_adapter": True}
    for key in ("adapter_layer_indices", "adapter_dim", "use_backbone_lora", "lora_layer_indices",
                "lora_target_modules", "lora_rank", "lora_alpha"):  # fmt: skip
        value = own[key]
        sizes[key] = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    with torch.device("meta"):
        mot = MoT({"video": WanVideoDiT(**sizes)}, mot_checkpoint_mixed_attn=False)
        expert = StateFusionActionExpert(
            video_hidden_dim=sizes["hidden_dim"], action_dim=7, num_fusion_layers=3,
            **OmegaConf.to_container(head),
        )  # fmt: skip
        proprio = torch.nn.Linear(8, sizes["text_dim"])
    state = {f"mot.{k}": list(v.shape) for k, v in mot.state_dict().items()}
    state |= {f"state_fusion_action_expert.{k}": list(v.shape) for k, v in
              expert.state_dict().items()}  # fmt: skip
    state |= {f"proprio_encoder.{k}": list(v.shape) for k, v in proprio.state_dict().items()}
    found: dict[str, list[int]] = {}
    counts: dict[str, int] = defaultdict(int)
    for name, shape in state.items():
        key = re.sub(r"\.video\.blocks\.\d+\.", ".video.blocks.*.", name)
        assert found.setdefault(key, shape) == shape
        counts[key] += 1
    assert {n for k, n in counts.items() if "*" in k} == {30}
    with open(out, "w") as file:
        rows = [f"{json.dumps(name)}: {json.dumps(shape)}" for name, shape in found.items()]
        file.write("{\n" + ",\n".join(rows) + "\n}\n")


if __name__ == "__main__":
    main(sys.argv[1])
