"""Record whole runs of Fast-WAM's own code at tiny size: images, state, prompt to actions.

Run it inside a checkout of https://github.com/yuantianyuan01/FastWAM (commit 45d8e14) as
`PYTHONPATH=src python make_fastwam_runs.py OUT.safetensors`, with torch, einops, omegaconf, hydra,
GitPython and wamkit. The classes of the three policies, the scheduler, the normalizer and the
preprocessing of both evaluations are the authors' own; `eval_libero_single.py` and
`deploy_policy.py` import simulators, so that their functions are taken out of their source. The VAE
is wamkit's `pixel_shuffle` and the embeddings of the prompt are random, given as context. Networks
run in float64.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastwam.datasets.lerobot.processors.fastwam_processor import FastWAMProcessor
from fastwam.datasets.lerobot.transforms.action_state_merger import ConcatLeftAlign
from fastwam.models.wan22.action_dit import ActionDiT
from fastwam.models.wan22.fastwam import FastWAM
from fastwam.models.wan22.fastwam_idm import FastWAMIDM
from fastwam.models.wan22.fastwam_joint import FastWAMJoint
from fastwam.models.wan22.mot import MoT
from fastwam.models.wan22.wan_video_dit import WanVideoDiT
from PIL import Image
from safetensors.torch import save_file

from wamkit.config.spec import parse_part
from wamkit.testing.tolerance import float64

HEADS, HEAD, TEXT, LAYERS, LATENT = 2, 12, 16, 2, 48
STRIDE = (4, 2, 2)
CLASSES = {"uncond": FastWAM, "joint": FastWAMJoint, "idm": FastWAMIDM}
STEPS, FRAMES = 4, 9


class VAE(torch.nn.Module):
    """wamkit's pixel shuffle behind the interface of the authors' VAE."""

    upsampling_factor, temporal_downsample_factor = STRIDE[1], STRIDE[0]

    def __init__(self) -> None:
        super().__init__()
        part: Any = parse_part("vae", {"name": "pixel_shuffle", "strides": list(STRIDE)})
        self.inner = part.build()
        self.model = type("Model", (), {"z_dim": LATENT})()

    def encode(self, videos: Any, **options: Any) -> torch.Tensor:
        videos = torch.stack(list(videos)) if isinstance(videos, list) else videos
        return self.inner.encode(videos.float()).to(videos.dtype)

    def decode(self, latents: torch.Tensor, **options: Any) -> torch.Tensor:
        return self.inner.decode(latents.float())


def functions(file: str, *names: str) -> dict[str, Any]:
    """Functions and methods of a source file, without importing it."""
    tree = ast.parse(Path(file).read_text())
    found = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name in names
    ]
    scope: dict[str, Any] = {"np": np, "torch": torch, "Image": Image, "Any": Any, "Dict": dict}
    scope |= {"FastWAMProcessor": FastWAMProcessor, "tuple": tuple}
    exec(compile(ast.Module(found, []), file, "exec"), scope)
    return scope


def build(variant: str, action: int, state: int, mot: MoT | None = None) -> Any:
    torch.manual_seed(0)
    shared = {"num_heads": HEADS, "attn_head_dim": HEAD, "num_layers": LAYERS, "text_dim": TEXT}
    shared |= {"freq_dim": 256, "eps": 1e-6}
    video = WanVideoDiT(
        hidden_dim=HEADS * HEAD, in_dim=LATENT, out_dim=LATENT, ffn_dim=32, patch_size=(1, 2, 2),
        has_image_input=False, seperated_timestep=True, fuse_vae_embedding_in_latents=True,
        video_attention_mask_mode="first_frame_causal", **shared,
    )  # fmt: skip
    expert = ActionDiT(action_dim=action, hidden_dim=20, ffn_dim=24, **shared)
    mot = MoT({"video": video, "action": expert}, mot_checkpoint_mixed_attn=False)
    model = CLASSES[variant](
        video_expert=video, action_expert=expert, mot=mot, vae=VAE(), text_dim=TEXT,
        proprio_dim=state, torch_dtype=torch.float64,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(action)
    with torch.no_grad():
        for p in [*mot.parameters(), *model.proprio_encoder.parameters()]:
            scale = 0.3 / max(1, p[0].numel()) ** 0.5 if p.ndim > 1 else 0.1
            p.add_(torch.randn(p.shape, generator=rng) * scale)
            p.copy_(p.float())  # the record holds float32
    return model.double().eval()


def processor(action: int, state: int, mode: str, stats: Any) -> FastWAMProcessor:
    meta = {
        "images": [{"key": f"camera{i}", "shape": [3, 32, 24]} for i in range(2)],
        "action": [{"key": "default", "raw_shape": action, "shape": action}],
        "state": [{"key": "default", "raw_shape": state, "shape": state}],
    }
    made = FastWAMProcessor(
        shape_meta=meta, num_obs_steps=1, num_output_cameras=2, action_output_dim=action,
        proprio_output_dim=state, action_state_transforms=None, use_stepwise_action_norm=False,
        norm_default_mode=mode, norm_exception_mode=None, action_state_merger=ConcatLeftAlign(),
        train_transforms=None, val_transforms=None,
    )  # fmt: skip
    made.set_normalizer_from_stats(stats)
    return made.eval()


def statistics(size: int, rng: torch.Generator) -> dict[str, torch.Tensor]:
    low = torch.rand(size, generator=rng) - 1
    width = 0.5 + torch.rand(size, generator=rng)
    width[-1] = 0.0 if size == 4 else width[-1]  # a number that never changes in the data
    mean, std = low + 0.4 * width, 0.3 * width + 0.01
    rows = {"min": low, "max": low + width, "mean": mean, "std": std}
    rows |= {"q01": low + 0.02 * width, "q99": low + 0.97 * width}
    return {f"global_{key}": value for key, value in rows.items()}


@torch.no_grad()
def main(out: str) -> None:
    libero = functions(
        "experiments/libero/eval_libero_single.py",
        "_center_crop_resize", "_normalize_proprio", "_denormalize_action",
    )  # fmt: skip
    robotwin = functions(
        "experiments/robotwin/fastwam_policy/deploy_policy.py",
        "_resize_rgb", "_build_robotwin_image_tensor",
    )  # fmt: skip
    rng = torch.Generator().manual_seed(5)
    state: dict[str, torch.Tensor] = {}

    def images(count: int, height: int, width: int) -> list[torch.Tensor]:
        shape = (count, height, width, 3)
        return list(torch.randint(256, shape, dtype=torch.uint8, generator=rng))

    # LIBERO: two views side by side, ranges; every variant.
    stats = {"action": {"default": statistics(4, rng)}, "state": {"default": statistics(3, rng)}}
    for kind, table in stats.items():
        state |= {f"libero/statistics/{kind}/{k}": v.clone() for k, v in table["default"].items()}
    frames = images(2, 48, 40)
    raw_state = torch.tensor([0.2, -5.0, 9.0])  # beyond the data, and clipped
    context = torch.randn(1, 7, TEXT, generator=rng)
    state |= {"libero/image": frames[0], "libero/wrist_image": frames[1]}
    state |= {"libero/state": raw_state, "libero/text": context}
    views = [libero["_center_crop_resize"](p.numpy(), width=24, height=32) for p in frames]
    rgb = np.concatenate(views, axis=1)
    x = torch.tensor(rgb).permute(2, 0, 1)[None].double() * (2.0 / 255.0) - 1.0
    state["libero/canvas"] = torch.from_numpy(rgb.copy())
    for variant in CLASSES:
        model = build(variant, 4, 3)
        own = processor(4, 3, "min/max", stats)
        proprio = libero["_normalize_proprio"](raw_state.numpy(), own)
        more = {} if variant == "uncond" else {"num_video_frames": FRAMES}
        mask = torch.ones(1, context.shape[1], dtype=torch.bool)
        with float64():  # in which noise is drawn in float64, too
            found = model.infer_action(
                prompt=None, input_image=x, action_horizon=8, proprio=proprio,
                context=context.double(), context_mask=mask, num_inference_steps=STEPS, seed=11,
                **more,
            )["action"].float()  # fmt: skip
        state[f"libero/{variant}/normalized"] = found
        state[f"libero/{variant}/actions"] = torch.from_numpy(
            libero["_denormalize_action"](found, own)
        )[0]
        if variant == "uncond":
            tensors = model.mot.state_dict()
            state |= {f"weights/mot.{k}": v.float() for k, v in tensors.items()}
            encoder = model.proprio_encoder.state_dict()
            state |= {f"weights/proprio_encoder.{k}": v.float() for k, v in encoder.items()}
            shared = {k: v.clone() for k, v in tensors.items()}
    flow = model.infer_action_scheduler
    for steps in (4, 10):
        for dtype in (torch.float32, torch.bfloat16):
            times, deltas = flow.build_inference_schedule(steps, torch.device("cpu"), dtype)
            name = f"levels/{steps}/{str(dtype).removeprefix('torch.')}"
            state |= {f"{name}/timesteps": times.float(), f"{name}/deltas": deltas.float()}

    # RoboTwin: the head camera above those of the wrists, mean and deviation.
    stats = {"action": {"default": statistics(14, rng)}, "state": {"default": statistics(14, rng)}}
    for kind, table in stats.items():
        state |= {f"robotwin/statistics/{kind}/{k}": v for k, v in table["default"].items()}
    model, own = build("uncond", 14, 14), processor(14, 14, "z-score", stats)
    names = {"head_camera": "cam_high", "left_camera": "cam_left_wrist"}
    names |= {"right_camera": "cam_right_wrist"}
    frames = images(3, 30, 40)
    for name, frame in zip(names.values(), frames, strict=True):
        state[f"robotwin/{name}"] = frame
    theirs = model.mot.state_dict()
    for name, tensor in theirs.items():  # all but the ways in and out of the action are shared
        if shared[name].shape == tensor.shape and "head." not in name:
            tensor.copy_(shared[name])
        else:
            state[f"robotwin/weights/mot.{name}"] = tensor.float()
    for name, tensor in model.proprio_encoder.state_dict().items():
        state[f"robotwin/weights/proprio_encoder.{name}"] = tensor.float()
    holder: Any = type("Holder", (), {"model": model})()
    observation = {
        "observation": {k: {"rgb": p.numpy()} for k, p in zip(names, frames, strict=True)}
    }
    x = robotwin["_build_robotwin_image_tensor"](holder, observation)
    whole = ((x[0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
    state["robotwin/canvas"] = whole[::7, ::7].clone()  # every seventh pixel
    raw_state = torch.randn(14, generator=rng) * 4
    proprio = libero["_normalize_proprio"](raw_state.numpy(), own)
    mask = torch.ones(1, context.shape[1], dtype=torch.bool)
    with float64():
        found = model.infer_action(
            prompt=None, input_image=x, action_horizon=8, proprio=proprio,
            context=context.double(), context_mask=mask, num_inference_steps=STEPS, seed=11,
        )["action"].float()  # fmt: skip
    state["robotwin/state"] = raw_state
    state["robotwin/actions"] = torch.from_numpy(libero["_denormalize_action"](found, own))[0]
    save_file({k: v.contiguous() for k, v in state.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
