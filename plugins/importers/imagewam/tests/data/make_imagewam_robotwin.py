"""Record a whole run of ImageWAM's own RoboTwin evaluation, for `test_imagewam_robotwin.py`.

Run it as `make_imagewam_tiny.py`, which holds what both need, in the same checkouts (ImageWAM at
commit 5d4a341), with datasets and jsonlines besides: `PYTHONPATH=src:FLUX2/src:. python
make_imagewam_robotwin.py FOLDER`. It writes

    imagewam_robotwin.safetensors   weights that are of other sizes than in the record of the other
                                    script, whose weights the rest of the network has; a state, and
                                    what the robot receives; levels rounded to bfloat16; settings
                                    and statistics as text

What is theirs: the settings, composed as for a released run, and all that `get_model` and the
policy that it returns do with them: canvas, state, statistics, prompt, sampling, actions; of it,
mixed precision is off. What is not, in addition to what the other script says: the model of tiny
size, in which `load_checkpoint` puts the weights, and a robot that only keeps what it receives.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import make_imagewam_tiny as tiny
import numpy as np
import torch
from experiments.robotwin.imagewam_policy import deploy_policy as deploy
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wamkit.testing.tolerance import float64, to_float64

VALUES, CHUNK, SEED = 14, 16, 42
TASK = "robotwin_flux2_klein_4b_base_clean_imagewam"
PROMPT = "lift both"
CAMERAS = ("head_camera", "left_camera", "right_camera")
STEP = 4
"""Only every fourth row and column of the canvas is kept."""


def image_of(camera: int) -> np.ndarray[Any, Any]:
    """An image [240, 320, 3] uint8 that needs no file."""
    y, x, c = np.meshgrid(*(np.arange(n) for n in (240, 320, 3)), indexing="ij")
    found = 7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera
    return np.asarray(found % 256, dtype=np.uint8)


class Robot:
    """Stands in for the simulator: gives the prompt and keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[np.ndarray[Any, Any]] = []

    def get_instruction(self) -> str:
        return PROMPT

    def take_action(self, action: Any, action_type: str) -> None:
        assert action_type == "qpos"
        self.received.append(action)


def built() -> tuple[Any, dict[str, Tensor]]:
    """The network for 14 values, and those of its weights that are not in the other record."""
    tiny.ACTION = tiny.STATE = VALUES
    model, new = tiny.build(), {}
    with safe_open(Path(__file__).parent / "imagewam_tiny.safetensors", framework="pt") as file:
        known = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    parts = {"mot.": model.mot, "proprio_encoder.": model.proprio_encoder}
    with torch.no_grad():
        for start, part in parts.items():
            for name, p in part.named_parameters():
                old = known[f"weights/{start}{name}"]
                if old.shape == p.shape:
                    p.copy_(old)
                else:
                    new[f"weights/{start}{name}"] = p.detach().clone()
    return model, new


def statistics() -> dict[str, Any]:
    """Statistics as a training run writes them; one number of the state never changes."""
    rng = np.random.default_rng(3)
    found: dict[str, Any] = {}
    for kind in ("action", "state"):
        data = rng.normal(size=(400, VALUES)) * rng.uniform(0.05, 0.6, VALUES)
        data += rng.normal(size=VALUES) * 0.5
        if kind == "state":
            data[:, 13] = 0.25
        rows = {
            "min": data.min(0), "max": data.max(0), "mean": data.mean(0), "std": data.std(0),
            "q01": np.quantile(data, 0.01, 0), "q99": np.quantile(data, 0.99, 0),
        }  # fmt: skip
        found[kind] = {"default": {f"global_{row}": x.tolist() for row, x in rows.items()}}
    return found


def settings() -> dict[str, Any]:
    """Their settings of the released run, as `train_config.yaml` holds them."""
    cfg = deploy._compose_sim_cfg(None, None, TASK)
    found = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "data")}
    kept = ("eval_num_inference_steps", "mixed_precision")
    return {"model": found["model"], "data": {"train": found["data"]["train"]}} | {
        key: cfg[key] for key in kept
    }


@torch.no_grad()
@float64()
def run(model: Any, stats: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """A whole run: what the robot receives for three images, a state and a prompt."""
    (folder / "dataset_stats.json").write_text(json.dumps(stats))
    model.save_checkpoint(folder / "model.pt")
    encoder = to_float64(tiny.text_encoder())
    model.text_encoder = lambda prompts: encoder.encode(prompts).tokens[:, : len(prompts[0]) + 1]
    model.device = torch.device("cpu")
    instantiate = deploy.instantiate

    def made(cfg: Any, **given: Any) -> Any:
        return model if "create_imagewam" in cfg["_target_"] else instantiate(cfg, **given)

    deploy.instantiate = made
    policy = deploy.get_model(
        {
            "sim_task": TASK, "ckpt_setting": str(folder / "model.pt"), "device": "cpu",
            "dataset_stats_path": str(folder / "dataset_stats.json"), "mixed_precision": "no",
            "action_horizon": CHUNK, "replan_steps": CHUNK, "seed": SEED,
        }
    )  # fmt: skip
    deploy.instantiate = instantiate
    rng = np.random.default_rng(5)
    state = rng.normal(size=VALUES).astype(np.float32) * np.float32(0.4)
    observation = {
        "observation": {name: {"rgb": image_of(i)} for i, name in enumerate(CAMERAS)},
        "joint_action": {"vector": state},
    }
    chunks, inner = [], policy._infer_action_chunk

    def kept(*given: Any, **named: Any) -> Any:
        chunks.append(inner(*given, **named))
        return chunks[-1]

    policy._infer_action_chunk = kept
    robot = Robot()
    while not robot.received or not policy.should_request_observation():
        deploy.eval(robot, policy, observation)
    (chunk,) = chunks
    canvas = ((policy._build_robotwin_image_tensor(observation)[0] + 1) * 127.5).round()
    noise = torch.randn((1, CHUNK, VALUES), generator=torch.Generator().manual_seed(SEED))
    return {
        "state": torch.from_numpy(state),
        "canvas_size": torch.tensor(canvas.shape[1:]),
        "canvas": canvas.to(torch.uint8)[:, ::STEP, ::STEP],
        "noise": noise,
        "actions": torch.from_numpy(chunk),
        "executed": torch.from_numpy(np.stack(robot.received)),
    }


def rounded(model: Any) -> dict[str, Tensor]:
    """Levels as runs in bfloat16 round them: of training by what was drawn, and of sampling."""
    found: dict[str, Tensor] = {"drawn": torch.rand(64, generator=torch.Generator().manual_seed(4))}
    rand = torch.rand
    torch.rand = lambda *given, **named: found["drawn"]
    scheduler = model.train_action_scheduler
    timesteps = scheduler.sample_training_t(64, torch.device("cpu"), torch.bfloat16)
    torch.rand = rand
    with float64():
        found |= {"timesteps": timesteps, "weights": scheduler.training_weight(timesteps)}
    for steps in (4, 10):
        times, deltas = model.infer_action_scheduler.build_inference_schedule(
            steps, torch.device("cpu"), torch.bfloat16
        )
        found |= {f"sampling_{steps}": times, f"lengths_{steps}": deltas}
    return found


def main(folder: Path) -> None:
    model, state = built()
    stats = statistics()
    state |= {f"rounded/{k}": v for k, v in rounded(model).items()}
    wide = model.double()
    wide.torch_dtype = torch.float64
    with tempfile.TemporaryDirectory() as aside:
        state |= {f"run/{k}": v for k, v in run(wide, stats, Path(aside)).items()}
    save_file(
        {k: v.detach().contiguous().clone() for k, v in state.items()},
        folder / "imagewam_robotwin.safetensors",
        metadata={"statistics": json.dumps(stats), "settings": json.dumps(settings())},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
