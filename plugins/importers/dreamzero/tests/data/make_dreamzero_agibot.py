"""Record an episode of DreamZero's own policy on AgiBot, for `test_dreamzero_agibot.py`.

Run it as `make_dreamzero_tiny.py`, which says what is the authors' code and what is replaced. Here
their configuration of AgiBot's data makes the transforms of images, states, actions and language:
which values there are, in which order, how they are normalized, and which are relative. The image
is as small as the record's, colors are not changed, and statistics are random.
"""

from __future__ import annotations

import sys

from make_dreamzero_stubs import CLIP, Batch, fill, on_cpu  # isort: skip

import types
from typing import Any

import groot.vla.model.dreamzero.transform.dreamzero_cotrain as cotrain
import torch
import torch.nn.functional as F
from groot.vla.data.schema import DatasetMetadata
from groot.vla.model.n1_5.sim_policy import GrootSimPolicy
from hydra.utils import instantiate
from make_dreamzero_episode import (
    FRAMES,
    SIZE,
    STEPS,
    Image,
    Model,
    Text,
    Tokenizer,
    Video,
    policy_head,
)
from make_dreamzero_tiny import TEXT, network
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor
from wamkit_toy.text_encoder import ByteEncoder
from wamkit_wan.image_encoder import ImageEncoder, Shape
from wamkit_wan.vae import WAN21, WanVAE, tiny

from wamkit.testing.tolerance import to_float64

ACTION, STATE = 24, 22
CONFIGS = (
    "model/dreamzero/transform/base", "model/dreamzero/transform/dreamzero_cotrain",
    "data/dreamzero/base_48_wan_fine_aug_relative", "data/dreamzero/agibot_relative",
)  # fmt: skip
TINY = {
    "image_resolution_width": SIZE["width"], "image_resolution_height": SIZE["height"],
    "max_state_dim": STATE, "max_action_dim": ACTION, "action_horizon": STEPS,
    "tokenizer_path": ".",
}  # fmt: skip
SIZES = {
    "left_arm_joint_position": 7, "right_arm_joint_position": 7, "left_effector_position": 1,
    "right_effector_position": 1, "head_position": 2, "waist_position": 2, "robot_velocity": 2,
}  # fmt: skip
"""How many values each key has in AgiBot's data: 22 in all."""


def configuration() -> Any:
    """The authors' configuration of AgiBot, its images as small as the record's."""
    files = [OmegaConf.load(f"groot/vla/configs/{name}.yaml") for name in CONFIGS]
    made = OmegaConf.merge(*files, TINY)
    jitter = "groot.vla.data.transform.VideoColorJitter"  # of training alone
    made.transforms.agibot.transforms = [
        x for x in made.transforms.agibot.transforms if x.get("_target_") != jitter
    ]
    return made


def metadata(config: Any) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The facts of a data set with the keys of the configuration, and its rows key after key."""
    rng = torch.Generator().manual_seed(5)
    tables: dict[str, Any] = {"state": {}, "action": {}}
    modalities: dict[str, Any] = {"state": {}, "action": {}, "video": {}}
    plain: dict[str, Tensor] = {}
    for kind, table in tables.items():
        for full in config.modality_configs.agibot[kind].modality_keys:
            name = full.removeprefix(f"{kind}.")
            size = SIZES[name]
            mean, std = torch.randn(size, generator=rng), torch.rand(size, generator=rng) + 0.5
            rows = {"q01": mean - 2 * std, "q99": mean + 2 * std, "min": mean - 3 * std}
            rows |= {"max": mean + 3 * std, "mean": mean, "std": std}
            if size > 1:  # a value that is constant but for rare ones
                rows["q01"][0] = rows["q99"][0] = mean[0]
            table[name] = {k: row.tolist() for k, row in rows.items()}
            plain |= {f"{kind}/{name}/{k}": row for k, row in rows.items()}
            modalities[kind][name] = {
                "absolute": True, "rotation_type": None, "shape": [size], "continuous": True,
            }  # fmt: skip
    for view in config.modality_configs.agibot.video.modality_keys:
        modalities["video"][view.removeprefix("video.")] = {
            "resolution": [SIZE["w"], SIZE["h"]], "channels": 3, "fps": 5.0,
        }  # fmt: skip
    facts = {"statistics": tables, "modalities": modalities, "embodiment_tag": "agibot"}
    return facts, plain


def main(out: str) -> None:
    config, rng = configuration(), torch.Generator().manual_seed(7)
    facts, plain = metadata(config)
    keys = config.modality_configs.agibot
    video, state, action = (list(keys[kind].modality_keys) for kind in ("video", "state", "action"))
    noise = {
        "video": torch.randn(1, 16, FRAMES, 4, 4, generator=rng),
        "action": torch.randn(1, STEPS, ACTION, generator=rng),
    }
    states = torch.randn(3, 20, generator=rng)
    coarse = torch.rand(3, 9, 3, 6, 8, generator=rng)
    images = F.interpolate(coarse.flatten(0, 1), (SIZE["h"], SIZE["w"]), mode="bicubic")
    images = (images.clamp(0, 1) * 255).byte().unflatten(0, (3, 9))
    model, encoder = network(512, slots=(ACTION, STATE)), fill(ByteEncoder(TEXT, 511), 13)
    vae = fill(WanVAE(tiny(WAN21)), 11)
    tower = fill(ImageEncoder(Shape(CLIP, layers=2, heads=2)), 12)
    with on_cpu():
        wide = [to_float64(x) for x in (vae, tower, encoder)]
        parts = {"video": Video(wide[0]), "image": Image(wide[1]), "text": Text(wide[2])}
        head = policy_head(to_float64(model), parts, to_float64(noise), None, ACTION)
    cotrain.AutoTokenizer = types.SimpleNamespace(from_pretrained=lambda *_, **__: Tokenizer())
    policy = object.__new__(GrootSimPolicy)
    policy.eval_transform = instantiate(config.transforms.agibot)
    policy.eval_transform.set_metadata(DatasetMetadata.model_validate(facts))
    policy.eval_transform.eval()
    policy.eval_bf16, policy.rank, policy.train_cfg = True, 0, config
    policy.trained_model = Model(head)
    network_run = policy.trained_model.lazy_joint_video_action_causal

    def widely(*args: Any, **kwargs: Any) -> Any:
        with on_cpu():
            return network_run(*args, **kwargs)

    policy.trained_model.lazy_joint_video_action_causal = widely
    found: dict[str, Tensor] = {}
    for k, look in enumerate((slice(0, 1), slice(1, 5), slice(5, 9))):
        obs: dict[str, Any] = {
            name: images[i, look].permute(0, 2, 3, 1).numpy() for i, name in enumerate(video)
        }
        own = states[k : k + 1].double().split([SIZES[n.removeprefix("state.")] for n in state], 1)
        obs |= {name: x.numpy() for name, x in zip(state, own, strict=True)}
        obs["annotation.language.action_text"] = "Put the Cup on the plate"
        batch, _ = policy.lazy_joint_forward_causal(Batch(obs=obs))
        acts = [torch.as_tensor(batch.act[name]).reshape(STEPS, -1) for name in action]
        found[f"ran/actions.{k}"] = torch.cat(acts, -1).double()
    found["ran/canvas"] = torch.as_tensor(policy.trained_model.images)
    text = policy.trained_model.text
    found["ran/prompt"] = text[text > 0].to(torch.int16)
    found |= {"run/images": images, "run/states": states}
    found |= {f"run/noise_{k}": v for k, v in noise.items()}
    found |= {f"statistics/{k}": v for k, v in plain.items()}
    found |= {f"weights/action_head.model.{k}": v for k, v in model.state_dict().items()}
    save_file({k: v.contiguous().clone() for k, v in found.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
