"""Record a policy folder of LeRobot's own Fast-WAM at tiny size, and what it does; or check one.

Run it with https://github.com/huggingface/lerobot (commit 7427f31) and wamkit installed:

    python make_lerobot_fastwam_tiny.py OUT.safetensors          record
    python make_lerobot_fastwam_tiny.py --check DIR RECORD       load DIR by LeRobot's own classes

`--check` loads the weights strictly and the two processors, and compares the actions with those of
the record. Configuration, network, normalization and both pipelines are LeRobot's own. The VAE is
wamkit's `pixel_shuffle`, and the embeddings of the prompt are random, given as context: LeRobot
would download both. Everything is float32. LeRobot needs Python 3.12; the record was made by 3.11,
with its generic classes and type aliases in the older syntax and nothing else changed.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from lerobot.configs import FeatureType, NormalizationMode, PolicyFeature, PreTrainedConfig
from lerobot.policies.fastwam import modeling_fastwam
from lerobot.policies.fastwam.configuration_fastwam import FastWAMConfig
from lerobot.policies.fastwam.processor_fastwam import make_fastwam_pre_post_processors
from lerobot.processor import (
    NormalizerProcessorStep,
    PolicyProcessorPipeline,
    UnnormalizerProcessorStep,
)
from lerobot.processor.converters import policy_action_to_transition, transition_to_policy_action
from safetensors.torch import load_file, save_file

from wamkit.config.spec import parse_part

HEADS, HEAD, TEXT, LAYERS, LATENT = 2, 12, 16, 2, 48
ACTION, STATE, STEPS, HORIZON = 4, 3, 4, 8
STRIDE = (4, 2, 2)
CAMERAS = ("observation.images.image", "observation.images.wrist_image")


class VAE(torch.nn.Module):
    """wamkit's pixel shuffle behind the interface of LeRobot's VAE."""

    upsampling_factor, temporal_downsample_factor, z_dim = STRIDE[1], STRIDE[0], LATENT

    def __init__(self) -> None:
        super().__init__()
        part: Any = parse_part("vae", {"name": "pixel_shuffle", "strides": list(STRIDE)})
        self.inner = part.build()

    def encode(self, videos: Any, **options: Any) -> torch.Tensor:
        videos = torch.stack(list(videos)) if isinstance(videos, list) else videos
        return self.inner.encode(videos.float())


modeling_fastwam.load_pretrained_wan_vae = lambda **options: VAE()
modeling_fastwam.build_wan_tokenizer = lambda **options: None


def configuration() -> FastWAMConfig:
    shared = {"num_heads": HEADS, "attn_head_dim": HEAD, "num_layers": LAYERS, "text_dim": TEXT}
    shared |= {"freq_dim": 256, "eps": 1e-6}
    video = {
        "patch_size": [1, 2, 2], "in_dim": LATENT, "out_dim": LATENT, "hidden_dim": HEADS * HEAD,
        "ffn_dim": 32, "seperated_timestep": True, "action_conditioned": False,
        "video_attention_mask_mode": "first_frame_causal", "action_dim": ACTION,
        "action_group_causal_mask_mode": "group_diagonal", **shared,
    }  # fmt: skip
    action = {"action_dim": ACTION, "hidden_dim": 20, "ffn_dim": 24, **shared}
    features = {name: PolicyFeature(FeatureType.VISUAL, (3, 32, 32)) for name in CAMERAS}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    return FastWAMConfig(
        device="cpu", torch_dtype="float32", load_text_encoder=False, action_dim=ACTION,
        proprio_dim=STATE, action_horizon=HORIZON, n_action_steps=5, num_video_frames=9,
        action_video_freq_ratio=2, image_size=(32, 64), num_inference_steps=STEPS,
        inference_seed=11, video_dit_config=video, action_dit_config=action,
        input_features=features, action_scheduler={
            "train_shift": 3.0, "infer_shift": 3.0, "num_train_timesteps": 1000
        },
    )  # fmt: skip


def statistics(size: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
    low = torch.rand(size, generator=rng) - 1
    width = 0.5 + torch.rand(size, generator=rng)
    width[-1] = 0.0  # a value that never changes in the data
    rows = {"min": low, "max": low + width, "mean": low + 0.4 * width, "std": 0.3 * width}
    return rows | {"q01": low + 0.02 * width, "q99": low + 0.97 * width}


def build(rng: torch.Generator) -> modeling_fastwam.FastWAMPolicy:
    torch.manual_seed(0)
    policy = modeling_fastwam.FastWAMPolicy(configuration())
    with torch.no_grad():
        for p in policy.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return policy.eval()


@torch.no_grad()
def run(policy: Any, before: Any, after: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Actions [N, A] in physical units, from images of 8 bits, a state and embeddings."""
    images = {name: given[name].permute(2, 0, 1).float() / 255 for name in CAMERAS}
    batch = before({**images, "observation.state": given["state"]})
    batch |= {"context": given["context"]}
    batch |= {"context_mask": torch.ones(1, given["context"].shape[1], dtype=torch.bool)}
    return after(policy.predict_action_chunk(batch))[0]


def as_bytes(file: Path) -> torch.Tensor:
    return torch.tensor(list(file.read_bytes()), dtype=torch.uint8)


def normalized(stats: Any, rng: torch.Generator) -> dict[str, torch.Tensor]:
    """What LeRobot's steps make of values, under every rule."""
    found = {}
    values = torch.randn(5, ACTION, generator=rng) * 2
    values[:, -1] = stats["action"]["mean"][-1]
    found["rules/values"] = values
    features = {"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}
    for rule in ("MEAN_STD", "MIN_MAX", "QUANTILES"):
        how = {FeatureType.ACTION: NormalizationMode(rule)}
        own = {"features": features, "norm_map": how, "stats": stats}
        found[f"rules/{rule}/encoded"] = NormalizerProcessorStep(**own)._normalize_action(
            values, inverse=False
        )
        found[f"rules/{rule}/decoded"] = UnnormalizerProcessorStep(**own)._normalize_action(
            values, inverse=True
        )
    return found


def record(out: str) -> None:
    rng = torch.Generator().manual_seed(5)
    policy = build(rng)
    stats = {"action": statistics(ACTION, rng), "observation.state": statistics(STATE, rng)}
    before, after = make_fastwam_pre_post_processors(policy.config, stats)
    shape = (40, 24, 3)
    given = {n: torch.randint(256, shape, dtype=torch.uint8, generator=rng) for n in CAMERAS}
    given["state"] = torch.randn(STATE, generator=rng)
    given["state"][-1] = stats["observation.state"]["mean"][-1]
    given["context"] = torch.randn(1, 12, TEXT, generator=rng)
    state = {**given, "actions": run(policy, before, after, given), **normalized(stats, rng)}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        policy.save_pretrained(folder)
        before.save_pretrained(folder)
        after.save_pretrained(folder)
        for file in sorted(folder.iterdir()):
            if file.suffix == ".json":
                state[f"json/{file.name}"] = as_bytes(file)
            elif file.suffix == ".safetensors":
                tensors = load_file(file)
                state |= {f"file/{file.name}/{name}": t for name, t in tensors.items()}
    prompt = modeling_fastwam._prompt_from_batch({"task": "pick up the cup"}, policy.config)
    metadata = {"prompt": prompt}
    save_file({k: v.contiguous() for k, v in state.items()}, out, metadata)
    print(f"{out}: {len(state)} tensors, {Path(out).stat().st_size:,} bytes")


def check(folder: str, file: str) -> None:
    given = load_file(file)
    config = PreTrainedConfig.from_pretrained(folder, trust_remote_code=False)
    config.load_text_encoder = False  # tiny embeddings are given
    config.inference_seed = 11  # the noise of the record
    policy = modeling_fastwam.FastWAMPolicy.from_pretrained(
        folder, config=config, strict=True, trust_remote_code=False
    )
    before = PolicyProcessorPipeline.from_pretrained(
        folder, "policy_preprocessor.json", trust_remote_code=False
    )
    after = PolicyProcessorPipeline.from_pretrained(
        folder, "policy_postprocessor.json",
        to_transition=policy_action_to_transition, to_output=transition_to_policy_action,
        trust_remote_code=False,
    )  # fmt: skip
    actions = run(policy.eval(), before, after, given)
    error = float((actions - given["actions"]).abs().max())
    print(json.dumps({"loaded": type(policy).__name__, "largest difference of actions": error}))


if __name__ == "__main__":
    check(*sys.argv[2:4]) if sys.argv[1] == "--check" else record(sys.argv[1])
