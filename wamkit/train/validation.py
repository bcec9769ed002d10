"""Validation: the loss on held-out episodes, and images of what the policy imagines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from ..data import Loader, Samples, collate
from ..errors import WamkitError
from ..files.durable import as_not_written, replacing
from ..policy.observation import Observation
from .batches import seed_of, shard
from .config import TrainConfig
from .distributed import DistributedPolicy
from .processes import Processes

BAR = 4  # pixels between the real row and the imagined one
SAFE = "or go on without images: --train imagine_every=0 --resume"


class Validator:
    """Held-out samples, always the same ones with the same noise."""

    def __init__(
        self, samples: Samples, config: TrainConfig, processes: Processes, workers: int
    ) -> None:
        """Raises WamkitError if there are fewer than processes times passes."""
        shards = processes.world * config.gradient_accumulation_steps
        size = min(config.batch_size, len(samples) // shards * shards)
        if not size:
            raise WamkitError(
                f"{len(samples)} held-out samples for {shards} processes and passes",
                "hold out more: --train val_fraction=0.2, or none: val_fraction=0",
            )
        self.samples, self.config, self.processes = samples, config, processes
        self.loader = Loader(
            samples,
            size // processes.world,
            seed=config.seed,
            workers=workers,
            rank=processes.rank,
            world=processes.world,
        )

    @torch.no_grad()
    def loss(self, distributed: DistributedPolicy) -> dict[str, float]:
        """`loss` and the loss of each part, the mean over the first batches."""
        passes, found = self.config.gradient_accumulation_steps, []
        names: list[str] = []
        start = self.loader.state_dict() | {"epoch": 0, "position": 0}
        self.loader.load_state_dict(start)
        for i, batch in enumerate(self.loader):
            for k in range(passes):
                place = self.processes.rank + k * self.processes.world
                seed = seed_of("held out", self.config.seed, i, place)
                losses = distributed.losses(shard(batch, k, passes), seed)
                names = list(losses)
                found.append(torch.stack(list(losses.values())).float())
            if i + 1 == self.config.validation_batches:
                break
        means = self.processes.mean(torch.stack(found).mean(0)).tolist()
        losses_by_part = dict(zip(names, means, strict=True))
        return {"loss": losses_by_part.pop("total"), **losses_by_part}


def write_imagined(
    distributed: DistributedPolicy, samples: Samples, file: Path, processes: Processes
) -> None:
    """Write a strip of a sample's images above those imagined from the first of them."""
    sample = samples[len(samples) // 3]
    seen = collate([sample]).observation
    count = distributed.loss_module.policy.spec.video
    if next(iter(seen.images.values())).shape[1] < count.num_frames:
        raise WamkitError(
            "stored latents leave out the images that are to come",
            "imagine_every=0, or train without --latents",
        )
    now = Observation(_first(seen.images, count.num_observed), seen.prompt, seen.state)
    future = distributed.loss_module.imagine(now, 0)
    with processes.raise_together():
        if processes.first:
            real = distributed.loss_module.policy.cameras.canvas(
                _first(seen.images, count.num_frames)
            )
            _draw([distributed.loss_module.policy.cameras.merge_views(real), future.canvas], file)


def _draw(canvases: Sequence[Tensor], file: Path) -> None:
    """Write strips of canvases [1, 3, T, height, width], one below the other."""
    rows = [_strip(canvas[0].cpu()) for canvas in canvases]
    height = sum(row.height for row in rows) + BAR * (len(rows) - 1)
    sheet = Image.new("RGB", (max(row.width for row in rows), height), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + BAR
    with as_not_written(file, SAFE):
        file.parent.mkdir(exist_ok=True)
    with replacing(file, SAFE) as part:
        sheet.save(part, format="PNG")


def _first(images: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: image[:, :count] for name, image in images.items()}


def _strip(images: Tensor) -> Image.Image:
    """Images [3, T, height, width] in [-1, 1] side by side."""
    pixels = ((images.clamp(-1, 1) + 1) * 127.5).round().byte().permute(2, 1, 3, 0)
    return Image.fromarray(pixels.flatten(1, 2).contiguous().numpy())
