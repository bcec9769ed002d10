"""Record how Light-WAM's RoboTwin evaluation prepares images and states, for `test_light_wam.py`.

Run it as `make_light_wam_tiny.py`. The file holds every eighth row and column of the canvas that is
made of three images of 480 x 640 pixels (`image_of` in the test draws the same), a state before and
after normalization by mean and deviation, and actions after and before it. Two deviations are 0.01
and 0. (They normalize in float32, which leaves few digits where a deviation is small.)
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import torch
from experiments.robotwin.lightwam_policy.deploy_policy import WorldActionRobotWinPolicy as Policy
from lightwam.datasets.dataset_utils import (
    CenterCrop,
    Normalize,
    ResizeSmallestSideAspectPreserving,
)
from lightwam.datasets.lerobot.processors.lightwam_processor import LightWAMProcessor
from lightwam.datasets.lerobot.transforms.action_state_merger import ConcatLeftAlign
from lightwam.datasets.lerobot.transforms.image import ToTensor
from safetensors.torch import save_file
from torchvision.transforms import Resize

KEYS = ("cam_high", "cam_left_wrist", "cam_right_wrist")


def image_of(camera: int) -> torch.Tensor:
    """An image [480, 640, 3] uint8 that needs no file."""
    y, x, c = torch.meshgrid(*(torch.arange(n) for n in (480, 640, 3)), indexing="ij")
    return ((7 * y + 3 * x + 31 * c + (x * y) // 90 + 50 * camera) % 256).to(torch.uint8)


def main(out: str) -> None:
    rng = torch.Generator().manual_seed(5)
    shapes: dict[str, Any] = {
        "images": [{"key": k, "raw_shape": [3, 480, 640], "shape": [3, 240, 320]} for k in KEYS],
        "action": [{"key": "default", "raw_shape": 14, "shape": 14}],
        "state": [{"key": "default", "raw_shape": 14, "shape": 14}],
    }
    transforms = [ToTensor(), Resize([240, 320])]
    processor = LightWAMProcessor(
        shape_meta=shapes, num_obs_steps=33, num_output_cameras=3, action_output_dim=14,
        proprio_output_dim=14, action_state_transforms=None, use_stepwise_action_norm=False,
        norm_default_mode="z-score", norm_exception_mode=None, train_transforms=transforms,
        val_transforms=transforms, action_state_merger=ConcatLeftAlign(),
    ).eval()  # fmt: skip
    statistics = {}
    for kind in ("action", "state"):
        mean, std = torch.randn(14, generator=rng), torch.rand(14, generator=rng) + 0.05
        std[3], std[11] = 0.01, 0.0
        low, high = mean - 3 * std, mean + 3 * std
        rows = {"mean": mean, "std": std, "min": low, "max": high, "q01": low, "q99": high}
        statistics[kind] = rows
    processor.set_normalizer_from_stats(
        {
            kind: {"default": {f"global_{row}": v.clone() for row, v in rows.items()}}
            for kind, rows in statistics.items()
        }
    )
    size = {"args": {"img_w": 320, "img_h": 384}}
    runner: Any = SimpleNamespace(
        processor=processor, concat_multi_camera="robotwin", video_size=(384, 320),
        resize_transform=ResizeSmallestSideAspectPreserving(**size),
        crop_transform=CenterCrop(**size),
        normalize_transform=Normalize(args={"mean": 0.5, "std": 0.5}),
        model=SimpleNamespace(device="cpu", torch_dtype=torch.float32),
    )  # fmt: skip
    names = ("head_camera", "left_camera", "right_camera")
    images = {name: {"rgb": image_of(i).numpy()} for i, name in enumerate(names)}
    canvas = Policy._build_robotwin_image_tensor(runner, {"observation": images})
    state = statistics["state"]["mean"] + 0.5 * statistics["state"]["std"]
    state = state + torch.randn(14, generator=rng) * (statistics["state"]["std"] > 1e-3)
    values = torch.randn(5, 14, generator=rng)
    found = {
        "canvas": canvas[0, :, ::8, ::8],
        "state": state,
        "state_normalized": Policy._normalize_state(runner, state.numpy())[0],
        "values": values,
        "actions": torch.as_tensor(Policy._denormalize_action(runner, values)[0]),
    }
    for kind, rows in statistics.items():
        found |= {f"statistics/{kind}/{row}": value for row, value in rows.items()}
    save_file({k: v.contiguous().clone() for k, v in found.items()}, out)


if __name__ == "__main__":
    main(sys.argv[1])
