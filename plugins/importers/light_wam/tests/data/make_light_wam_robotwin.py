"""Record what Light-WAM's own code computes on RoboTwin at tiny size, for its tests.

Run it as `make_light_wam_tiny.py`, with hydra too. The settings are those that
`scripts/train_robotwin.sh` gives to the training, with a network as small as `TINY` and `settings`
say; they lie in the file as the `config.yaml` of the run. The authors' code is: how the settings
are composed, every part of the network and its loading, one training step, and `step` of the policy
in `experiments/robotwin`, from images, state and instruction to the actions it executes. Not theirs
are the VAE (wamkit's tiny one), tokenizer and text encoder (bytes and a table of embeddings), and
the simulator, of which two methods are called. All is computed in float64 on a CPU from weights in
bfloat16; actions to execute are float32 there. Levels of training are also recorded as runs in
bfloat16 round them; the action needs none, in training or in use.

Images (`image_of`) and latents (`wave`) are drawn by formulas that the test repeats. Two
deviations of action and state are 0.01 and 0.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from experiments.robotwin.lightwam_policy import deploy_policy
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightwam.datasets.lerobot.utils.normalizer import save_dataset_stats_to_json
from lightwam.models.wan22.helpers import loader
from lightwam.models.wan22.wan_video_dit import WanVideoDiT
from lightwam.models.wan22.wan_video_text_encoder import WanTextEncoder
from make_light_wam_tiny import VAE
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from wamkit.config.spec import parse
from wamkit.policy.policy import Policy
from wamkit.testing.tolerance import float64, to_float64

TASK = "put the cup away"
HEADS, HEAD, TEXT, LAYERS, SIZE = 2, 12, 16, 3, 14
TINY = (
    "model.wam_adapter.adapter_layer_indices=[0,1,2]", "model.wam_adapter.adapter_dim=6",
    "model.wam_adapter.lora_layer_indices=[0,1,2]", "model.wam_adapter.lora_rank=2",
    "model.wam_adapter.lora_alpha=4.0", "model.video_dit_config.text_dim=16",
    "model.state_fusion_action_expert_config.per_layer_dim=12",
    "model.state_fusion_action_expert_config.trunk_dim=16",
    "model.state_fusion_action_expert_config.token_pooling_num_queries=3",
    "model.state_fusion_action_expert_config.token_pooling_num_heads=2",
    "mixed_precision=no",
)  # fmt: skip
PLACES = {
    "ROBOTWIN_TRAIN_DIR": "data", "ROBOTWIN_VAL_DIR": "data", "OUTPUT_DIR": "run",
    "ROBOTWIN_NORM_STATS": "dataset_stats.json", "TEXT_EMBED_CACHE_DIR": "text",
    "WANDB_NAME": "run",
}  # fmt: skip
"""Variables of the script that are folders or names; none of them is read here."""


def image_of(camera: int, height: int = 480, width: int = 640) -> Tensor:
    """An image [height, width, 3] uint8 that needs no file."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (height, width, 3)), indexing="ij")
    return ((7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera) % 256).to(torch.uint8)


def wave(shape: tuple[int, ...], pace: float) -> Tensor:
    """Numbers between -1.5 and 1.5 that need no file."""
    count = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (1.5 * torch.sin(pace * count + 0.01 * (count % 97))).view(shape)


def published_options() -> list[str]:
    """What the script of the training gives to Hydra, from a launcher that prints it."""
    with TemporaryDirectory() as folder:
        launcher = Path(folder, "accelerate")
        launcher.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        launcher.chmod(0o755)
        path = f"{folder}:{os.environ['PATH']}"
        lines = subprocess.run(
            ["bash", "scripts/train_robotwin.sh"], env={**os.environ, **PLACES, "PATH": path},
            capture_output=True, text=True, check=True,
        ).stdout.splitlines()  # fmt: skip
    return lines[lines.index("scripts/train.py") + 1 :]


def settings() -> dict[str, Any]:
    """The `config.yaml` of the run, resolved as `run_training` writes it."""
    sizes = loader.WAN_VIDEO_BACKBONE_SPECS["wan2_1_t2v"].dit_config_overrides
    sizes |= {"hidden_dim": HEADS * HEAD, "ffn_dim": 24, "num_heads": HEADS, "num_layers": LAYERS}
    sizes |= {"attn_head_dim": HEAD, "text_dim": TEXT}  # the code overrides those of the settings
    with initialize_config_dir(version_base="1.3", config_dir=str(Path("configs").resolve())):
        made = compose(config_name="train", overrides=[*published_options(), *TINY])
    return OmegaConf.to_container(made, resolve=True)  # type: ignore[return-value]


class Tokenizer:
    """Bytes as tokens, with the interface of `HuggingfaceTokenizer`."""

    def __init__(self, name: Any, seq_len: int, **_: Any) -> None:
        self.length, self.seen = seq_len, b""

    def __call__(self, prompt: str, **_: Any) -> tuple[Tensor, Tensor]:
        self.seen = prompt.encode()
        blank = self.length - len(self.seen)
        ids, mask = [*self.seen] + [0] * blank, [1] * len(self.seen) + [0] * blank
        return torch.tensor([ids]), torch.tensor([mask])


class Embeddings(nn.Module):
    """A table of embeddings in place of UMT5, of which padding has some too."""

    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.table = nn.Parameter(table)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.table[ids] + torch.arange(ids.shape[1])[:, None] / 64


def build(config: dict[str, Any], vae: VAE, table: Tensor) -> Any:
    """The model of the settings, with random weights in bfloat16."""

    def load(path: Any, kind: type, model_kwargs: Any = None, **_: Any) -> Any:
        if kind is WanVideoDiT:  # its pretrained weights, which the checkpoint replaces
            return kind(**model_kwargs)
        return Embeddings(table) if kind is WanTextEncoder else vae

    loader._load_explicit_model = load
    loader.HuggingfaceTokenizer = Tokenizer
    loader.ModelConfig.download_if_necessary = lambda *_: None
    torch.manual_seed(0)
    model = instantiate(OmegaConf.create(config["model"]), model_dtype=torch.float32, device="cpu")
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
            p.copy_(p.bfloat16())
    return model.eval()


def statistics(rng: torch.Generator) -> dict[str, dict[str, dict[str, Tensor]]]:
    """Rows of action and state as the normalizer reads them."""
    found = {}
    for kind in ("action", "state"):
        mean, std = torch.randn(SIZE, generator=rng), torch.rand(SIZE, generator=rng) + 0.05
        std[3], std[11] = 0.01, 0.0
        low, high = mean - 3 * std, mean + 3 * std
        rows = {"mean": mean, "std": std, "min": low, "max": high, "q01": low, "q99": high}
        found[kind] = {"default": {f"global_{row}": v.clone() for row, v in rows.items()}}
    return found


@torch.no_grad()
@float64()
def trained(model: Any, rng: torch.Generator) -> dict[str, Tensor]:
    """What one training step makes of a batch of two."""
    model.torch_dtype = torch.float64
    latents, noise = wave((2, 16, 3, 48, 40), 0.73), wave((2, 16, 3, 24, 20), 1.91)
    x = {
        "timestep_video": torch.tensor([951.0, 312.5]),
        "text": torch.randn(2, 5, TEXT, generator=rng),
        "proprio": torch.randn(2, SIZE, generator=rng),
        "actions": torch.randn(2, 32, SIZE, generator=rng),
        "action_is_pad": torch.arange(32)[None] >= torch.tensor([[32], [19]]),
        "image_is_pad": torch.arange(9)[None] >= torch.tensor([[9], [5]]),
    }
    sample = {
        "video_latents": latents, "context": x["text"], "action": x["actions"],
        "context_mask": torch.ones(2, 5, dtype=torch.bool), "proprio": x["proprio"][:, None],
        "action_is_pad": x["action_is_pad"], "image_is_pad": x["image_is_pad"],
    }  # fmt: skip
    kept: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        of = getattr(model, name)
        return patch.object(model, name, lambda *a, **k: kept.setdefault(name, of(*a, **k)))

    level = patch.object(
        model.train_video_scheduler, "sample_training_t", lambda **_: x["timestep_video"]
    )
    with (
        level, patch.object(torch, "randn_like", lambda _: noise), keep("_predict_video_only"),
        keep("_predict_state_fusion_action_from_observation"),
    ):  # fmt: skip
        _, losses = model.training_loss(sample)
    found = {f"inputs/{k}": v.byte() if v.dtype == torch.bool else v for k, v in x.items()}
    return found | {
        "outputs/velocity_video": kept["_predict_video_only"][..., ::4, ::4],
        "outputs/action": kept["_predict_state_fusion_action_from_observation"],
        **{f"outputs/{k}": torch.tensor(losses[k]) for k in ("loss_video", "loss_action")},
    }


class Simulator:
    """What the policy calls of the simulator."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def get_instruction(self) -> str:
        return TASK

    def take_action(self, action: Any, action_type: str) -> None:
        assert action_type == "qpos"
        self.taken.append(torch.from_numpy(action))


@float64()
def ran(policy: Any, states: Tensor) -> dict[str, Tensor]:
    """Two chunks: from images as they are recorded, and as they are rendered in the simulator."""
    policy.model.double().torch_dtype = torch.float64
    simulator, found = Simulator(), {}
    for k, size in enumerate(((480, 640), (240, 320))):
        cameras = ("head_camera", "left_camera", "right_camera")
        images = {n: {"rgb": image_of(i + 3 * k, *size).numpy()} for i, n in enumerate(cameras)}
        seen = {"observation": images, "joint_action": {"vector": states[k].numpy()}}
        canvas = policy._build_robotwin_image_tensor(seen)[0, :, ::8, ::8]
        simulator.taken.clear()
        while not simulator.taken or not policy.should_request_observation():
            policy.step(simulator, seen)
        found |= {
            f"run/{k}/actions": torch.stack(simulator.taken), f"run/{k}/canvas": canvas,
            f"run/{k}/state": states[k],
            f"run/{k}/normalized": policy._normalize_state(states[k].numpy())[0],
        }  # fmt: skip
    context, _ = policy.model.encode_prompt(policy.model.tokenizer.seen.decode())
    prompt = torch.tensor(list(policy.model.tokenizer.seen), dtype=torch.uint8)
    return {**found, "run/prompt": prompt, "run/context": context}


def rounded(model: Any) -> dict[str, Tensor]:
    """Levels of training as runs in bfloat16 round them, by what was drawn, and their weights."""
    drawn = torch.rand(64, generator=torch.Generator().manual_seed(4))
    flow = model.train_video_scheduler
    with patch.object(torch, "rand", lambda *given, **named: drawn):
        times = flow.sample_training_t(64, torch.device("cpu"), torch.bfloat16)
    with float64():
        weights = flow.training_weight(times)
    return {"rounded/drawn": drawn, "rounded/timesteps": times, "rounded/weights": weights}


def main(out: str) -> None:
    rng = torch.Generator().manual_seed(5)
    config = settings()
    parts = {
        "backbone": {"name": "wan", "variant": "tiny", "layers": 1}, "vae": {"name": "wan2.1",
        "width": "tiny"}, "text_encoder": {"name": "bytes"}, "action_head": "state_fusion",
        "paradigm": "single_pass", "actions": {"groups": [{"name": "arm", "size": SIZE}]},
        "cameras": {"views": [{"name": "image", "size": [32, 32]}]},
    }  # fmt: skip
    wide = to_float64(Policy.from_spec(parse(parts)).vae)
    table = torch.randn(256, TEXT, generator=rng)
    model = build(config, VAE(wide), table)
    known = statistics(rng)
    means, stds = (known["state"]["default"][f"global_{row}"] for row in ("mean", "std"))
    states = means + stds * torch.randn(2, SIZE, generator=rng)
    with TemporaryDirectory() as folder:
        places = {name: str(Path(folder, name)) for name in ("step.pt", "stats.json", "run.yaml")}
        model.save_checkpoint(places["step.pt"], step=7)
        save_dataset_stats_to_json(known, places["stats.json"])
        OmegaConf.save(OmegaConf.create(config), places["run.yaml"])
        policy = deploy_policy.get_model(
            {
                "ckpt_setting": places["step.pt"], "dataset_stats_path": places["stats.json"],
                "use_training_run_config": True, "training_config_path": places["run.yaml"],
                "device": "cpu",
            }
        )  # fmt: skip
        with float64():  # whose numbers were float32
            read = deploy_policy.load_dataset_stats_from_json(places["stats.json"])
            policy.processor.set_normalizer_from_stats(read)
    held = {"mot": model.mot, "proprio_encoder": model.proprio_encoder}
    held["state_fusion_action_expert"] = model.state_fusion_action_expert
    state = {
        f"weights/{part}.{name}": value.bfloat16()
        for part, module in held.items()
        for name, value in module.state_dict().items()
    }
    for kind, tables in known.items():
        state |= {f"statistics/{kind}/{row}": v for row, v in tables["default"].items()}
    state |= ran(policy, states) | trained(to_float64(model), rng) | rounded(model)
    state |= {name: x.float() for name, x in state.items() if name.endswith("canvas")}
    del config["data"]["val"]
    save_file(
        {k: v.contiguous().clone() for k, v in state.items()},
        out,
        {"config": json.dumps(config), "executed": str(len(state["run/0/actions"]))},
    )


if __name__ == "__main__":
    main(sys.argv[1])
