"""Record a policy folder of LeRobot's own Fast-WAM at tiny size, and what it does; or check one.

Run it with https://github.com/huggingface/lerobot (commit 7427f31) and wamkit installed:

    python make_lerobot_fastwam_tiny.py OUT.safetensors          record
    python make_lerobot_fastwam_tiny.py --train RECORD OUT       record a step of its training
    python make_lerobot_fastwam_tiny.py --names OUT.json.gz      record names at published size
    python make_lerobot_fastwam_tiny.py --check DIR RECORD       load DIR by LeRobot's own classes

`--check` loads the weights strictly and the two processors, and compares the actions with those of
the record. Configuration, network, normalization and both pipelines are LeRobot's own. The VAE is
wamkit's `pixel_shuffle`, and the embeddings of the prompt are random, given as context: LeRobot
would download both. Everything is float32. LeRobot needs Python 3.12; the record was made by 3.11,
with its generic classes and type aliases in the older syntax and nothing else changed.

`--train` loads the folder of the record and calls `FastWAMPolicy.forward` on a batch as LeRobot's
data sets have it, of smaller images, which its preprocessor made ready. The draws are LeRobot's,
kept as they are drawn; the first frame's noise is left out, as the observed frame takes its place.
`image_is_pad` is what the class reads; LeRobot's data sets name it otherwise, and it goes unread.
Levels under `rounded/` are those of actions in bfloat16; latents of LeRobot are always float32.
`--names` builds the class as it is by default, on the meta device.
"""

from __future__ import annotations

import gzip
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

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


def load(folder: str | Path, **changes: Any) -> tuple[Any, Any, Any]:
    """Policy and processors of a folder; `changes` are of its configuration."""
    config = PreTrainedConfig.from_pretrained(folder, trust_remote_code=False)
    config.load_text_encoder = False  # tiny embeddings are given
    config.inference_seed = 11  # the noise of the record
    for name, value in changes.items():
        setattr(config, name, value)
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
    return policy.eval(), before, after


def write_folder(folder: Path, record: dict[str, torch.Tensor]) -> None:
    """The files that LeRobot saved."""
    files: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in record.items():
        kind, _, rest = key.partition("/")
        if kind == "json":
            (folder / rest).write_bytes(bytes(value.tolist()))
        elif kind == "file":
            file, name = rest.split("/")
            files.setdefault(file, {})[name] = value
    for file, tensors in files.items():
        save_file(tensors, folder / file)


def train(file: str, out: str) -> None:
    rng = torch.Generator().manual_seed(6)
    size, samples, frames = 16, 3, 5
    features = {name: PolicyFeature(FeatureType.VISUAL, (3, size, size)) for name in CAMERAS}
    features["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    with tempfile.TemporaryDirectory() as home:
        recorded = load_file(file)
        write_folder(Path(home), recorded)
        changes = {"image_size": (size, 2 * size), "input_features": features}
        policy, before, _ = load(home, **changes)
    shape = (samples, frames, 3, size, size)
    given = {n: torch.randint(256, shape, dtype=torch.uint8, generator=rng) for n in CAMERAS}
    given["observation.state"] = torch.randn(samples, STATE, generator=rng)
    given["action"] = torch.randn(samples, HORIZON, ACTION, generator=rng)
    for name in ("observation.state", "action"):  # a value that never changes, as in the data
        mean = next(v for k, v in recorded.items() if k.endswith(f"/{name}.mean"))
        given[name][..., -1] = mean[-1]
    given["action_is_pad"] = torch.zeros(samples, HORIZON, dtype=torch.bool)
    given["action_is_pad"][1, 5:] = given["action_is_pad"][2, 1:] = True
    given["context"] = torch.randn(samples, 12, TEXT, generator=rng)
    given["image_is_pad"] = torch.zeros(samples, frames, dtype=torch.bool)
    given["image_is_pad"][1, 3:] = given["image_is_pad"][2, 1:] = True
    whole = {"context_mask": torch.ones(samples, 12, dtype=torch.bool)}
    batch = before({k: v.float() / 255 if k in CAMERAS else v for k, v in given.items()})
    batch |= {**whole, **{k: given[k] for k in ("context", "image_is_pad", "action_is_pad")}}
    found = one_step(policy, batch)
    rest = {k: v for k, v in batch.items() if not k.endswith("is_pad")}
    plain = one_step(policy, rest)
    assert torch.equal(plain["draws/randn_like/0"], found["draws/randn_like/0"])
    state = {f"given/{k}": v for k, v in given.items()} | found
    state |= {f"unpadded/{k}": v for k, v in plain.items() if k.startswith("loss")}
    flow = policy.model.train_action_scheduler
    with mock.patch.object(torch, "rand", return_value=torch.linspace(0.001, 0.999, 64)):
        steps = flow.sample_training_t(64, torch.device("cpu"), torch.bfloat16)
    state |= {"rounded/timesteps": steps, "rounded/weights": flow.training_weight(steps)}
    for name in ("draws/randn_like/0", "velocity_video"):
        state[name] = state[name][:, :, 1:]  # the first frame is observed
    save_file({k: v.detach().clone().contiguous() for k, v in state.items()}, out)
    print(f"{out}: {len(state)} tensors, {Path(out).stat().st_size:,} bytes")


@torch.no_grad()
def one_step(policy: Any, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What `forward` makes of a batch: draws, levels, mask, velocities and losses."""
    found: dict[str, torch.Tensor] = {}
    own = {name: getattr(torch, name) for name in ("rand", "randn_like")}
    model = policy.model
    network, visible = model._run_training_mot, model._build_mot_attention_mask

    def drawing(name: str) -> Any:
        def draw(*args: Any, **options: Any) -> torch.Tensor:
            place = sum(key.startswith(f"draws/{name}/") for key in found)
            found[f"draws/{name}/{place}"] = value = own[name](*args, **options)
            return value

        return draw

    def run_network(inputs: Any, targets: Any) -> Any:
        found["level_video"], found["level_action"] = (
            targets[f"timestep_{part}"] for part in ("video", "action")
        )
        found["velocity_video"], found["velocity_action"] = pair = network(inputs, targets)
        return pair

    def build_mask(**options: Any) -> torch.Tensor:
        found["mask"] = visible(**options)
        return found["mask"]

    torch.manual_seed(7)
    with (
        mock.patch.multiple(torch, rand=drawing("rand"), randn_like=drawing("randn_like")),
        mock.patch.object(model, "_run_training_mot", run_network),
        mock.patch.object(model, "_build_mot_attention_mask", build_mask),
    ):
        loss, parts = policy.forward(batch)
    found["loss"] = loss
    return found | {name: torch.tensor(value) for name, value in parts.items()}


def on_meta(build: Any) -> Any:
    """As `build`, with tensors that hold no values."""

    def built(**options: Any) -> torch.nn.Module:
        with torch.device("meta"):
            return build(**options)

    return built


def names(out: str) -> None:
    """Names and shapes of the class as published, and the settings it is built of."""
    config = FastWAMConfig(device="cpu", load_text_encoder=False)
    config.set_dataset_feature_metadata(
        {"observation.state": {}} | {name: {"dtype": "video"} for name in CAMERAS}
    )
    with tempfile.TemporaryDirectory() as home:
        config._save_pretrained(Path(home))
        settings = json.loads((Path(home) / "config.json").read_text())
    config.device = "meta"
    experts = {
        name: on_meta(getattr(modeling_fastwam, name)) for name in ("WanVideoDiT", "ActionDiT")
    }
    with mock.patch.multiple(modeling_fastwam, **experts):
        policy = modeling_fastwam.FastWAMPolicy(config)
    table = {name: list(tensor.shape) for name, tensor in sorted(policy.state_dict().items())}
    found = {"config.json": settings, "model.safetensors": table}
    Path(out).write_bytes(gzip.compress(json.dumps(found).encode(), mtime=0))
    print(f"{out}: {len(table)} tensors, {Path(out).stat().st_size:,} bytes")


def check(folder: str, file: str) -> None:
    given = load_file(file)
    policy, before, after = load(folder)
    actions = run(policy, before, after, given)
    error = float((actions - given["actions"]).abs().max())
    print(json.dumps({"loaded": type(policy).__name__, "largest difference of actions": error}))


if __name__ == "__main__":
    command = {"--check": check, "--train": train, "--names": names}.get(sys.argv[1])
    command(*sys.argv[2:]) if command is not None else record(sys.argv[1])
