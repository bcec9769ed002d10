"""A released checkpoint of DreamZero at tiny size, and the policy that is imported from it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from wamkit_wan.image_encoder import ImageEncoder, Shape
from wamkit_wan.image_encoder import tiny as clip_shape
from wamkit_wan.vae import WAN21, WanVAE, tiny
from wamkit_wan.vae_weights import LAYOUTS

from wamkit.interfaces.types import Text
from wamkit.policy.importing import ImportPlan, plan_import
from wamkit.policy.policy import Policy
from wamkit.testing.recorded import read_record

DATA = Path(__file__).parent / "data"
BLOCKS, STEPS, VALUES = 3, 4, 8
ROWS = ("min", "max", "mean", "std", "q01", "q99")
KEYS = {"joint_position": 7, "gripper_position": 1}
SIZES = (
    *("backbone.variant=tiny", "vae.width=tiny", "dtype=float32"),
    *("text_encoder.name=bytes", "text_encoder.max_length=511"),
)
SMALL = {
    True: ("size=[16, 32]", "size=[16, 16]", "size=[16, 16]"),
    False: ("size=[8, 16]", "size=[8, 8]", "size=[8, 8]"),
}
"""Sizes of the views of 14B, and of 5B, where squares of pixels are averaged."""
"""Parts as small as the record; other sizes are in `config.json` and in the tensors."""


def fill(module: nn.Module, seed: int) -> nn.Module:
    """Weights that follow from a seed alone, as in the script."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            spread = 1 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((p.ndim == 1) * 0.5 + torch.randn(p.shape, generator=rng) * spread)
    return module.eval()


@pytest.fixture(scope="module")
def record() -> dict[str, Tensor]:
    return read_record(DATA / "dreamzero_tiny.safetensors")


def published(name: str, layers: dict[str, int] | None = None) -> dict[str, list[int]]:
    """Name -> shape of every tensor of a released checkpoint, or of one with fewer layers."""
    found: dict[str, list[int]] = {}
    for key, (count, shape) in json.loads((DATA / "dreamzero_names.json").read_text())[
        name
    ].items():
        part = key.split(".")[1]
        for layer in range((layers or {}).get(part, count) if "*" in key else 1):
            found[key.replace("*", str(layer))] = shape
    return found


def tower(encoder: ImageEncoder, shape: Shape) -> dict[str, Tensor]:
    """A CLIP tower under its published names, with a last layer of zeros."""
    ours, layer = encoder.state_dict(), "encoder.layers.{}."
    found = {
        "cls_embedding": ours["embeddings.class_embedding"][None, None],
        "pos_embedding": ours["embeddings.position_embedding.weight"][None],
        "patch_embedding.weight": ours["embeddings.patch_embedding.weight"],
    }
    names = {"norm1": "layer_norm1", "norm2": "layer_norm2", "attn.proj": "self_attn.out_proj"}
    names |= {"mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    for kind in ("weight", "bias"):
        found[f"pre_norm.{kind}"] = ours[f"pre_layrnorm.{kind}"]
        for i in range(shape.layers - 1):
            start, old = layer.format(i), f"transformer.{i}."
            found |= {f"{old}{k}.{kind}": ours[f"{start}{v}.{kind}"] for k, v in names.items()}
            parts = [ours[f"{start}self_attn.{x}_proj.{kind}"] for x in "qkv"]
            found[f"{old}attn.to_qkv.{kind}"] = torch.cat(parts)
    return found


ADAPTED = re.compile(r"(self_attn|cross_attn)\.[qkvo]\.weight$|\.ffn\.[02]\.weight$")


def adapted(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights where training with LoRA is not merged: as `peft` names them, rank 2."""
    rng, found = torch.Generator().manual_seed(9), {}
    for name, value in state.items():
        new = name.replace("action_head.model.", "action_head.model.base_model.model.")
        start = new.removesuffix("weight").removesuffix("bias")
        if name.startswith("action_head.model.") and ADAPTED.search(f"{start}weight"):
            if new.endswith("weight"):
                out, into = value.shape
                found[f"{start}lora_A.default.weight"] = torch.randn(2, into, generator=rng)
                found[f"{start}lora_B.default.weight"] = torch.randn(out, 2, generator=rng)
            new = start + "base_layer." + new.removeprefix(start)
        found[new] = value
    return found


def checkpoint(
    record: dict[str, Tensor],
    folder: Path,
    *,
    guided: bool = True,
    lora: bool = False,
    facts: dict[str, Any] | None = None,
) -> Path:
    """A folder as it is released: every tensor name, in two files, with settings and statistics.

    `facts` are its `metadata.json`, those of DROID if left out.
    """
    start, shape = "weights/", clip_shape(16)
    state = {k.removeprefix(start): v for k, v in record.items() if k.startswith(start)}
    if not guided:
        name = "action_head.model.patch_embedding.weight"
        state[name] = state[name][:, :16].contiguous()
    vae = fill(WanVAE(tiny(WAN21)), 11).state_dict()
    clip = tower(fill(ImageEncoder(shape), 12), shape)  # type: ignore[arg-type]
    (original,) = [x for x in LAYOUTS["wan2.1"] if x.name == "original"]
    layers = {"model": 2, "image_encoder": shape.layers, "text_encoder": 1}
    for name in published("14b", layers):
        part, _, rest = name.removeprefix("action_head.").partition(".model.")
        if part == "vae":
            state[name] = vae[original.rename(rest)[0]]
        elif part == "image_encoder":
            known = clip.get(rest.removeprefix("visual."))
            state[name] = torch.zeros(1) if known is None else known
        elif name.startswith("action_head.text_encoder."):
            state[name] = torch.zeros(1)
        assert name in state, name
    if lora:
        state = adapted(state)
    folder.mkdir(parents=True, exist_ok=True)
    names = sorted(state)
    for i, some in enumerate((names[::2], names[1::2]), 1):
        file = folder / f"model-0000{i}-of-00002.safetensors"
        save_file({name: state[name].contiguous() for name in some}, file)
    where = {n: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, n in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    network = {"num_heads": 2, "max_chunk_size": BLOCKS, "num_frame_per_block": 2}
    network |= {"num_action_per_block": STEPS}
    settings = {"diffusion_model_cfg": network, "action_horizon": STEPS}
    settings |= {"lora_rank": 2, "lora_alpha": 3}
    (folder / "config.json").write_text(json.dumps({"action_head_cfg": {"config": settings}}))
    (folder / "experiment_cfg").mkdir(exist_ok=True)
    facts = metadata(record) if facts is None else facts
    (folder / "experiment_cfg" / "metadata.json").write_text(json.dumps(facts))
    return folder


def metadata(record: dict[str, Tensor]) -> dict[str, Any]:
    """`metadata.json` with the recorded statistics."""
    tables: dict[str, Any] = {"statistics": {}, "modalities": {}}
    for kind in ("action", "state"):
        rows = {row: record[f"statistics/{kind}.{row}"].split([*KEYS.values()]) for row in ROWS}
        tables["statistics"][kind] = {
            key: {row: parts[i].tolist() for row, parts in rows.items()}
            for i, key in enumerate(KEYS)
        }
        tables["modalities"][kind] = {key: {"shape": [size]} for key, size in KEYS.items()}
    return {"oxe_droid": tables}


def built(record: dict[str, Tensor], folder: Path, *, guided: bool = True) -> Policy:
    """The policy that is imported from such a folder, with recorded parts around the network."""
    options = [*SIZES, *(f"cameras.views.{i}.{size}" for i, size in enumerate(SMALL[guided]))]
    options += () if guided else (f"cameras.views.{i}.average=2" for i in range(3))
    released = checkpoint(record, folder / "released", guided=guided)
    return equipped(plan_import(released, None, options), folder / "policy")


def equipped(plan: ImportPlan, folder: Path) -> Policy:
    """The policy of a plan, with the parts of the record around the network."""
    policy = Policy.load(plan.write(folder, random_parts=True))
    fill(policy.text_encoder, 13)  # type: ignore[arg-type]
    policy.conditioner = fill(ImageEncoder(Shape(16, layers=2, heads=2)), 12)  # type: ignore[assignment]
    encode = policy.text_encoder.encode  # padding is zeros, and attended, as with UMT5
    policy.text_encoder.encode = lambda prompts: Text(encode(prompts).tokens)  # type: ignore
    return policy


@pytest.fixture(scope="session")
def release() -> Any:
    """What this module offers to tests."""
    return sys.modules[__name__]


@pytest.fixture(scope="module")
def policy(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="module")
def unguided(record: dict[str, Tensor], tmp_path_factory: Any) -> Policy:
    return built(record, tmp_path_factory.mktemp("unguided"), guided=False)
