"""Record the names and shapes of all tensors of a released checkpoint, for `test_dreamzero.py`.

Run it as `make_dreamzero_tiny.py`, with OUT.json. Names are those of the published classes, built
without weights at their published sizes. Numbered layers of equal shapes are one entry, the number
replaced by "*", behind it how many there are.
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

from make_dreamzero_stubs import OnCPU, dit, project  # isort: skip

import torch
from groot.vla.model.dreamzero.modules.wan_video_image_encoder import XLMRobertaCLIP
from groot.vla.model.dreamzero.modules.wan_video_text_encoder import WanTextEncoder
from groot.vla.model.dreamzero.modules.wan_video_vae import WanVideoVAE, WanVideoVAE38
from torch import Tensor, nn

COMMON = {
    "freq_dim": 256, "eps": 1e-6, "max_chunk_size": 4, "num_frame_per_block": 2,
    "num_action_per_block": 24,
}  # fmt: skip
SIZES: dict[str, dict[str, Any]] = {
    "14b": {
        "model_type": "i2v", "frame_seqlen": 880, "dim": 5120, "in_dim": 36, "ffn_dim": 13824,
        "out_dim": 16, "num_heads": 40, "num_layers": 40,
    },
    "5b": {
        "model_type": "ti2v", "frame_seqlen": 50, "dim": 3072, "in_dim": 48, "ffn_dim": 14336,
        "out_dim": 48, "num_heads": 24, "num_layers": 30, "concat_first_frame_latent": False,
    },
}  # fmt: skip
NUMBER = re.compile(r"(?<=^blocks\.)\d+|(?<=^visual\.transformer\.)\d+")


def names(module: nn.Module, start: str) -> dict[str, list[Any]]:
    """Name, with "*" for the number of a layer -> how many there are, and their shape."""
    found: dict[str, list[Any]] = {}
    for name, value in module.state_dict().items():
        key = start + NUMBER.sub("*", name)
        count, shape = found.get(key, [0, list(value.shape)])
        assert shape == list(value.shape), name
        found[key] = [count + 1, shape]
    return found


def main(out: str) -> None:
    for name in ("xavier_uniform_", "normal_"):
        setattr(nn.init, name, lambda *_, **__: None)
    dit.MLPProj = project
    Tensor.cuda = lambda self, *_, **__: self  # type: ignore[method-assign, assignment]
    head = "action_head."
    with torch.device("meta"), OnCPU():
        tower = XLMRobertaCLIP(
            embed_dim=1024, image_size=224, patch_size=14, vision_dim=1280, vision_mlp_ratio=4,
            vision_heads=16, vision_layers=32, vision_pool="token", activation="gelu",
            vocab_size=2, max_text_len=4, type_size=1, pad_id=1, text_dim=8, text_heads=1,
            text_layers=1,
        )  # fmt: skip
        shared = names(tower, f"{head}image_encoder.model.")
        shared |= names(WanTextEncoder(), f"{head}text_encoder.")
        found = {
            name: names(dit.CausalWanModel(**COMMON, **sizes), f"{head}model.")
            | names((WanVideoVAE if name == "14b" else WanVideoVAE38)().model, f"{head}vae.model.")
            | shared
            for name, sizes in SIZES.items()
        }
    with open(out, "w", encoding="utf-8") as file:
        json.dump(found, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
