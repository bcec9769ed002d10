"""Record what ImageWAM's own code computes at tiny size, for `test_imagewam.py`.

Run it as `PYTHONPATH=src:FLUX2/src:. python make_imagewam_tiny.py FOLDER` inside a checkout of
https://github.com/yuyangalin/ImageWAM (commit 5d4a341), where FLUX2 is a checkout of
https://github.com/black-forest-labs/flux2 at the commit that it names (50fe516), with torch,
einops, omegaconf, hydra-core, accelerate, gitpython, rich and wamkit. It writes

    imagewam_tiny.safetensors   weights under the names of a released `model.pt`; one batch of two
                                samples with what the training pass makes of it; one observation
                                and the actions of a whole run, in physical units
    imagewam_names.json         names and shapes of the published sizes, from the original classes

Weights and samples are drawn in float32, everything is computed in float64 on a CPU. All of the
network, its masks, levels, losses, sampling, images, state and statistics are the authors' code.
Its VAE and text encoder are stood in for by wamkit's tiny ones, filled by `fill`; the simulator's
modules, which its evaluation imports, are empty.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from wamkit_flux import Flux2VAE
from wamkit_toy.parts import Bytes

from wamkit.testing.tolerance import float64, to_float64

for stub in ("libero", "libero.libero", "libero.libero.envs", "action_ensembler"):
    sys.modules[stub] = ModuleType(stub)
sys.modules["libero.libero"].benchmark = sys.modules["libero.libero"].get_libero_path = None
sys.modules["libero.libero.envs"].OffScreenRenderEnv = None
sys.modules["libero.libero.envs"].SubprocVectorEnv = None
sys.modules["action_ensembler"].ActionEnsembler = None

from experiments.libero import eval_libero_single as evaluation  # noqa: E402
from flux2.model import Flux2, Flux2Params, Klein4BParams, Klein9BParams  # noqa: E402
from imagewam.datasets.lerobot.processors.imagewam_processor import (  # noqa: E402
    ImageWAMProcessor,
)
from imagewam.datasets.lerobot.transforms.action_state_merger import ConcatLeftAlign  # noqa: E402
from imagewam.models.backbones.action_dit_flux2 import ActionDiTFlux2  # noqa: E402
from imagewam.models.backbones.flux2_video_expert import Flux2VideoExpert  # noqa: E402
from imagewam.models.backbones.imagewam import ImageWAM  # noqa: E402
from imagewam.models.backbones.mot import MoT  # noqa: E402
from omegaconf import OmegaConf  # noqa: E402

HEADS, HEAD, TEXT, DEPTH, SINGLE = 2, 8, 16, 2, 2
ACTION, STATE, CHUNK, SIDE = 4, 3, 6, 32
PROMPTS = ("lift it", "push")
SEED, STEPS = 7, 4


def fill(module: nn.Module) -> nn.Module:
    """Weights that follow from their names' order and sizes alone, on any machine."""
    with torch.no_grad():
        for i, p in enumerate(module.parameters()):
            wave = torch.sin(torch.arange(p.numel(), dtype=torch.float64) * 1.7 + i)
            scale = 1 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.copy_((wave * scale + (p.ndim == 1)).to(p.dtype).view_as(p))
    return module


class VAE(nn.Module):
    """wamkit's tiny VAE with the functions that ImageWAM calls."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = fill(Flux2VAE(width="tiny").build())

    def encode(self, images: Tensor) -> Tensor:
        return self.inner.encode(images[:, :, None])[:, :, 0]


def text_encoder() -> Any:
    return fill(Bytes(embedding=TEXT, max_length=96).build())


def build() -> ImageWAM:
    torch.manual_seed(0)
    flux = Flux2(
        Flux2Params(
            in_channels=128,
            context_in_dim=TEXT,
            hidden_size=HEADS * HEAD,
            num_heads=HEADS,
            depth=DEPTH,
            depth_single_blocks=SINGLE,
            axes_dim=[HEAD // 4] * 4,
            use_guidance_embed=False,
        )
    )
    video = Flux2VideoExpert(flux, "tiny")
    action = ActionDiTFlux2(
        ACTION,
        hidden_dim=12,
        num_heads=HEADS,
        attn_head_dim=HEAD,
        num_layers_double=DEPTH,
        num_layers_single=SINGLE,
    )
    mot = MoT({"video": video, "action": action}, mot_checkpoint_mixed_attn=False)
    model = ImageWAM(
        video,
        action,
        mot,
        VAE(),
        text_dim=TEXT,
        proprio_dim=STATE,
        loss_lambda_video=0.5,
        stack="flux2",
        pack_proprio_after_text=True,
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in [*mot.parameters(), *model.proprio_encoder.parameters()]:
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
    return model.eval()


def sample() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    text = torch.zeros(2, 7, TEXT)
    text[0, :3], text[1, :6] = normal(3, TEXT), normal(6, TEXT)
    return {
        "text": text,
        "text_mask": torch.arange(7) < torch.tensor([[3], [6]]),
        "proprio": normal(2, STATE),
        "pixels": torch.randint(256, (2, 3, 2, SIDE, 2 * SIDE), generator=rng, dtype=torch.uint8),
        "actions": normal(2, CHUNK, ACTION),
        "step_is_pad": torch.arange(CHUNK) >= torch.tensor([[CHUNK], [CHUNK - 2]]),
        "dim_is_pad": torch.arange(ACTION) >= torch.tensor([[ACTION - 1], [ACTION]]),
        "noise_video": normal(2, 2 * 4, 128),
        "noise_action": normal(2, CHUNK, ACTION),
        "timestep_video": torch.tensor([951.0, 312.5]),
        "timestep_action": torch.tensor([87.5, 640.0]),
    }


@contextmanager
def drawn(model: ImageWAM, given: dict[str, Tensor]) -> Iterator[None]:
    """The training step draws the noise and the levels that are given."""
    noise, before = iter((given["noise_video"], given["noise_action"])), torch.randn_like
    torch.randn_like = lambda like: next(noise).to(like)
    for part in ("video", "action"):
        scheduler = getattr(model, f"train_{part}_scheduler")
        scheduler.sample_training_t = lambda part=part, **_: given[f"timestep_{part}"]
    try:
        yield
    finally:
        torch.randn_like = before


@torch.no_grad()
@float64()
def training(model: ImageWAM, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the authors' training step makes of a batch, in float64."""
    seen: dict[str, Tensor] = {}

    def recorded(owner: Any, name: str, key: str) -> None:
        inner = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            seen[key] = inner(*args, **kwargs)
            return seen[key]

        setattr(owner, name, call)

    recorded(model.video_expert, "post_dit", "velocity_video")
    recorded(model.action_expert, "post_dit", "velocity_action")
    recorded(model, "_build_mot_attention_mask_flux2", "mask")
    with drawn(model, given):
        total, parts = model.training_loss(
            {
                "video": given["pixels"].double() / 127.5 - 1,
                "text_hidden_states": given["text"],
                "text_attention_mask": given["text_mask"],
                "proprio": given["proprio"],
                "action": given["actions"],
                "action_is_pad": given["step_is_pad"],
                "action_dim_is_pad": given["dim_is_pad"],
            }
        )
    mask = seen.pop("mask")
    assert torch.equal(mask["double_joint"], mask["single"])
    for owner in (model.video_expert, model.action_expert):
        del owner.post_dit
    del model._build_mot_attention_mask_flux2
    weights = {
        f"weight_{part}": getattr(model, f"train_{part}_scheduler").training_weight(
            given[f"timestep_{part}"]
        )
        for part in ("video", "action")
    }
    losses = {name: torch.tensor(value) for name, value in parts.items()}
    return {**seen, **weights, **losses, "loss": total, "mask": mask["single"].to(torch.uint8)}


def statistics() -> dict[str, Any]:
    """Statistics as a training run writes them; one number of the state never changes."""
    rng = np.random.default_rng(3)
    found: dict[str, Any] = {}
    for kind, size in (("action", ACTION), ("state", STATE)):
        data = rng.normal(size=(400, size)) * rng.uniform(0.2, 3, size) + rng.normal(size=size)
        if kind == "state":
            data[:, 1] = 0.25
        rows = {
            "min": data.min(0), "max": data.max(0), "mean": data.mean(0), "std": data.std(0),
            "q01": np.quantile(data, 0.01, 0), "q99": np.quantile(data, 0.99, 0),
        }  # fmt: skip
        found[kind] = {"default": {f"global_{row}": x.tolist() for row, x in rows.items()}}
    return found


def processor(stats: dict[str, Any], folder: Path) -> ImageWAMProcessor:
    image = {"raw_shape": [3, 40, 40], "shape": [3, SIDE, SIDE]}
    shapes = {
        "images": [{"key": name, **image} for name in ("image", "wrist_image")],
        "action": [{"key": "default", "raw_shape": ACTION, "shape": ACTION}],
        "state": [{"key": "default", "raw_shape": STATE, "shape": STATE}],
    }
    made = ImageWAMProcessor(
        shape_meta=shapes,
        num_obs_steps=CHUNK + 1,
        num_output_cameras=2,
        action_output_dim=ACTION,
        proprio_output_dim=STATE,
        action_state_transforms=None,
        use_stepwise_action_norm=False,
        norm_default_mode="min/max",
        norm_exception_mode=None,
        action_state_merger=ConcatLeftAlign(),
        train_transforms=None,
        val_transforms=None,
    )
    file = folder / "dataset_stats.json"
    file.write_text(json.dumps(stats))
    made.set_normalizer_from_stats(evaluation.load_dataset_stats_from_json(str(file)))
    file.unlink()
    return made.eval()


@torch.no_grad()
@float64()
def run(model: ImageWAM, stats: dict[str, Any], folder: Path) -> dict[str, Tensor]:
    """A whole run as the authors' LIBERO evaluation makes it, up to the gripper's sign."""
    rng = np.random.default_rng(5)
    images = {n: rng.integers(0, 256, (40, 40, 3)).astype(np.uint8) for n in ("image", "wrist")}
    state = (rng.normal(size=STATE) * 0.5).astype(np.float32)
    obs = {"agentview_image": images["image"][::-1, ::-1]}
    obs["robot0_eye_in_hand_image"] = images["wrist"][::-1, ::-1]
    evaluation._extract_sim_state = lambda _: state
    cfg = OmegaConf.create({"data": {"train": {"concat_multi_camera": "horizontal"}}})
    made = processor(stats, folder)
    canvas, proprio, _ = evaluation._obs_to_model_input(
        obs, cfg, made, width=2 * SIDE, height=SIDE, device="cpu", dtype=torch.float64
    )
    encoder = to_float64(text_encoder())
    model.text_encoder = lambda prompts: encoder.encode(prompts).tokens[:, : len(prompts[0]) + 1]
    model.device = torch.device("cpu")
    found = model.infer_action(
        prompt=evaluation.DEFAULT_PROMPT.format(task="lift"),
        input_image=canvas,
        action_horizon=CHUNK,
        proprio=proprio,
        num_inference_steps=STEPS,
        seed=SEED,
    )["action"]
    times, steps = model.infer_action_scheduler.build_inference_schedule(
        STEPS, torch.device("cpu"), torch.float64
    )
    noise = torch.randn((1, CHUNK, ACTION), generator=torch.Generator().manual_seed(SEED))
    return {
        "image": torch.from_numpy(images["image"]),
        "wrist_image": torch.from_numpy(images["wrist"]),
        "state": torch.from_numpy(state),
        "canvas": ((canvas[0] + 1) * 127.5).round().to(torch.uint8),
        "noise": noise.to(torch.float32),
        "levels": torch.cat([times / 1000, times.new_zeros(1)]),
        "steps": steps,
        "normalized": found,
        "actions": torch.from_numpy(evaluation._denormalize_action(found, made))[0],
    }


def names() -> dict[str, Any]:
    """Names of tensors of a released `model.pt`, by size -> how many there are, and their shape.

    In a name, "*" stands for the number of a block.
    """
    found = {}
    with torch.device("meta"):
        for size, params in (("klein-4b", Klein4BParams()), ("klein-9b", Klein9BParams())):
            flux = Flux2(params)
            action = ActionDiTFlux2(
                7,
                num_heads=params.num_heads,
                num_layers_double=params.depth,
                num_layers_single=params.depth_single_blocks,
            )
            experts = {"video": Flux2VideoExpert(flux, size), "action": action}
            mot = MoT(experts, mot_checkpoint_mixed_attn=False)
            proprio = nn.Linear(8, params.context_in_dim)
            shapes = {f"mot.{k}": list(v.shape) for k, v in mot.state_dict().items()}
            shapes |= {f"proprio_encoder.{k}": list(v.shape) for k, v in proprio.named_parameters()}
            found[size] = folded(shapes)
    return found


def folded(shapes: dict[str, list[int]]) -> dict[str, list[Any]]:
    """The shapes with "*" for the number of a block, behind how many blocks there are."""
    found: dict[str, list[Any]] = {}
    for name, shape in shapes.items():
        key = re.sub(r"(double|single)_blocks\.\d+\.", r"\1_blocks.*.", name)
        count, first = found.get(key, [0, shape])
        assert first == shape, name
        found[key] = [count + 1, shape]
    return found


def main(folder: Path) -> None:
    model, given, stats = build(), sample(), statistics()
    state = {
        f"weights/mot.{k}": v
        for k, v in model.mot.state_dict().items()
        if not k.startswith(("mixtures.video.double_blocks", "mixtures.video.single_blocks"))
    }
    state |= {
        f"weights/proprio_encoder.{k}": v for k, v in model.proprio_encoder.named_parameters()
    }
    wide = model.double()
    wide.torch_dtype = torch.float64
    with float64():
        wide_given = to_float64(given)
    state |= {f"inputs/{k}": v for k, v in given.items()}
    state |= {f"outputs/{k}": v for k, v in training(wide, wide_given).items()}
    state |= {f"run/{k}": v for k, v in run(wide, stats, folder).items()}
    about = {"statistics": json.dumps(stats)}
    save_file(
        {k: v.detach().contiguous().clone() for k, v in state.items()},
        folder / "imagewam_tiny.safetensors",
        metadata=about,
    )
    packed = json.dumps(names(), separators=(",", ":"))
    (folder / "imagewam_names.json").write_text(packed + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
