"""The task that examples 04 to 06 learn: a dot goes to a target that it must see.

      +---------------+     images      from above, 24 x 24 pixels: now, and halfway
      |       x       |     state       where the dot is now (x, y); where to go is in the image
      | o~~~~~^       |     actions     8 velocities (x, y) in fields a second, one second long
      +---------------+     answer      known: a straight line, or an arc to either side

Everything is made with numpy from a seed, so that there is always more data, and an error in units
that mean something: how far from the answer the dot would travel, in fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

import wamkit

SIZE, STEPS = 24, 8  # pixels of a side, actions in a chunk
IMAGES = (0, STEPS // 2)  # places on the way at which an image is taken

VELOCITY = {"name": "velocity", "size": 2, "normalization": "none"}
FLOW = {"shift": 1.0, "steps": 8, "timestep_sampling": "logit_normal", "loss_weighting": "none"}
SPEC: dict[str, Any] = {
    "backbone": {"name": "toy", "depth": 2, "num_heads": 4, "head_dim": 12, "patch_size": 1},
    "vae": {"name": "pixel_shuffle", "strides": [1, 8, 8]},  # every image is 3 x 3 latents
    "text_encoder": {"name": "bytes", "max_length": 12},
    "action_head": {"name": "mot", "width": 48, "mlp_dim": 192, "state": "token"},
    "paradigm": {"name": "single_pass"},
    "actions": {"chunk_size": STEPS, "control_hz": STEPS, "groups": [VELOCITY]},
    "state": {"size": 2, "normalization": "none"},
    "cameras": {"views": [{"name": "top", "size": [SIZE, SIZE]}]},
    "video": {"num_frames": len(IMAGES), "frame_stride": STEPS // 2},
    "schedules": {"video": FLOW, "action": FLOW},
}
"""A policy of 0.3 million weights; every key is as in the .toml files next to this one."""


@dataclass(frozen=True)
class Demonstrations:
    """What was seen and done, and all that could have been done as well."""

    images: Tensor  # [B, 2, 3, SIZE, SIZE] uint8: B clips of (by default) two images in color
    ways: Tensor  # [B, W, STEPS + 1, 2] places of the dot on each of W right ways, in [0, 1]
    actions: Tensor  # [B, STEPS, 2] fields a second, along one of the ways

    def batch(self, rows: Tensor) -> wamkit.Batch:
        """Some of them as a training batch."""
        return wamkit.Batch(self._seen(self.images[rows], rows), self.actions[rows])

    def observation(self) -> wamkit.Observation:
        """What a policy sees of all of them: the first image, its place and the prompt."""
        return self._seen(self.images[:, :1], torch.arange(len(self.actions)))

    def _seen(self, images: Tensor, rows: Tensor) -> wamkit.Observation:
        prompts, state = ["go to red"] * len(rows), self.ways[rows, 0, 0]
        return wamkit.Observation({"top": images}, prompts, state)

    def errors(self, actions: Tensor) -> Tensor:
        """How far from the nearest right way the dot would be, on average over its way [B]."""
        went = self.ways[:, :1, :1] + actions[:, None].cumsum(2) / STEPS  # [B, 1, STEPS, 2]
        return (went - self.ways[:, :, 1:]).norm(dim=-1).mean(-1).amin(1)


def demonstrations(
    count: int, seed: int, *, arcs: bool = False, images: Sequence[int] = IMAGES
) -> Demonstrations:
    """`count` tasks; with `arcs` the way bends to one side or the other, by the toss of a coin."""
    rng = np.random.default_rng(seed)
    cells = rng.permuted(np.tile(np.arange(9), (count, 1)), axis=1)[:, :2]  # two of 3 x 3 cells
    ends = (np.stack([cells % 3, cells // 3], -1) + rng.uniform(0.2, 0.8, (count, 2, 2))) / 3
    start, line = ends[:, :1], ends[:, 1:] - ends[:, :1]  # [B, 1, 2]
    t = np.linspace(0, 1, STEPS + 1)[:, None]
    aside = np.stack([-line[..., 1], line[..., 0]], -1) * 0.5 * np.sin(np.pi * t)
    bends = (-1, 1) if arcs else (0,)
    ways = np.stack([start + t * line + bend * aside for bend in bends], 1)
    taken = ways[np.arange(count), rng.integers(len(bends), size=count)]  # [B, STEPS + 1, 2]
    clips = np.stack([_drawn(taken[:, k], ends[:, 1]) for k in images], 1)
    actions = np.diff(taken, axis=1) * STEPS
    tensors = (torch.from_numpy(x) for x in (clips, np.float32(ways), np.float32(actions)))
    return Demonstrations(*tensors)


def _drawn(dot: Any, target: Any) -> Any:
    """Images [B, 3, SIZE, SIZE] uint8 of a white dot and a red target, at [B, 2] in [0, 1]."""
    axis = (np.arange(SIZE) + 0.5) / SIZE
    things = np.stack([dot, target], 1)[..., None]  # [B, 2, 2, 1]
    near = np.exp(-0.5 * ((axis - things) / 0.05) ** 2)  # [B, 2, 2, SIZE]
    spots = near[:, :, 1, :, None] * near[:, :, 0, None, :]  # [B, 2, SIZE, SIZE]
    y, x = np.meshgrid(axis, axis, indexing="ij")
    floor = 100 * np.stack([x, y, 1 - (x + y) / 2])  # every place looks different
    paint = np.array([(255, 255, 255), (255, 60, 60)])
    return (floor + np.einsum("bkhw,kc->bchw", spots, paint)).clip(0, 255).astype(np.uint8)


def learn(
    policy: wamkit.Policy, data: Demonstrations, steps: int, *, seed: int = 0
) -> Iterator[float]:
    """Train for so many steps, giving the loss of each: the plain loop that everything rests on."""
    weights = policy.train().parameters()
    optimizer = torch.optim.AdamW(weights, lr=3e-3, weight_decay=0.01, fused=True)
    total = max(steps, 20)  # a tenth of them to warm up, the rest to cool down
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=total, pct_start=0.1)
    rng = torch.Generator().manual_seed(seed)
    for step in range(steps):
        rows = torch.randint(len(data.actions), (32,), generator=rng)
        loss = policy.loss(data.batch(rows), seed=1_000_000 * seed + step).total
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        rate.step()
        yield loss.item()
    policy.eval()
