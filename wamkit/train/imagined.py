"""Imagined held-out frames while a policy learns: strips of images, and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import Samples
from ..errors import WamkitError
from ..evaluate.frames import seconds_ahead
from ..evaluate.horizon import WHO, HorizonQuality
from ..evaluate.image_quality import METRICS
from ..evaluate.recorded import add_imagined, draw_clips, expect_measurable, pick_clips
from .config import TrainConfig
from .distributed import DistributedPolicy
from .logs import Log
from .validation import write_imagined

CLIPS = 32
"""Clips that are measured, evenly spaced over the held-out episodes."""

Means = dict[str, dict[str, float]]
"""Whose frames, those of the policy or the copy -> metric -> mean over horizons."""


class ImaginedFrames:
    """Draws and measures what a policy imagines of held-out samples, where that is due.

    Every process imagines the same clips, because shared weights are gathered from all.
    """

    def __init__(
        self,
        distributed: DistributedPolicy,
        samples: Samples,
        config: TrainConfig,
        *,
        held_out: bool,
    ) -> None:
        """`held_out`: whether `samples` are of episodes that the policy does not learn from.

        Raises WamkitError if metrics are wanted and cannot be computed.
        """
        self.distributed, self.samples, self.config = distributed, samples, config
        self.means: Means | None = None
        self.picked: list[int] = []
        if not config.validate_imagined_every:
            return
        if not held_out:
            raise WamkitError(
                "imagined held-out frames are to be measured, and no episode is held out",
                "hold out some: --train val_fraction=0.1, or set validate_imagined_every=0",
            )
        expect_measurable(distributed.loss_module.policy, samples)
        per_episode = max(1, CLIPS // len(samples.episodes))
        self.picked = pick_clips(samples, per_episode)[:CLIPS]

    def due(self, step: int) -> bool:
        """Whether anything is drawn or measured after so many updates."""
        return self._draws(step) or self._measures(step)

    def watch(
        self, step: int, run: Path, log: Log | None, write: Callable[[Mapping[str, Any]], None]
    ) -> None:
        """Draw and measure what is due; `write` takes the metrics, `log` of one process images."""
        policy, processes = self.distributed.loss_module.policy, self.distributed.processes
        if self._draws(step) and policy.spec.latent_frames[1]:
            file = run / "imagined" / f"step-{step:06d}.png"
            write_imagined(self.distributed, self.samples, file, processes)
            if log is not None:
                log.image(step, "imagined", file)
        if self._measures(step):
            rows = self._measure()
            self.means = {who: {name: _mean(rows, name, who) for name in METRICS} for who in WHO}
            write({"imagined": {**self.means, "by_horizon": rows}})

    def _draws(self, step: int) -> bool:
        return bool(self.config.imagine_every) and step % self.config.imagine_every == 0

    def _measures(self, step: int) -> bool:
        every = self.config.validate_imagined_every
        return bool(every) and (step % every == 0 or step == self.config.steps)

    @torch.no_grad()
    def _measure(self) -> list[dict[str, Any]]:
        loss_module, world = self.distributed.loss_module, self.distributed.processes.world
        policy = loss_module.policy
        quality = HorizonQuality(seconds_ahead(policy.spec))
        size = max(1, min(len(self.picked), self.config.batch_size // world))
        for drawn in draw_clips(self.samples, self.picked, self.config.seed, size):
            future = loss_module.imagine(drawn.seen, drawn.seeds)
            add_imagined(quality, policy, drawn, future)
        return quality.summary()


def _mean(rows: list[dict[str, Any]], name: str, who: str) -> float:
    """The mean of a metric over all horizons."""
    return sum(row[name][who]["mean"] for row in rows) / len(rows)
