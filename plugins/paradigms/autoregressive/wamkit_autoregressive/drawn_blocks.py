"""Training samples whose blocks have as many frames as are drawn (LingBot-VA)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch

from wamkit.config.visibility import Visibility
from wamkit.engine.noise_schedule import draw_uniform
from wamkit.interfaces.paradigm import ScheduleMap
from wamkit.interfaces.types import DenoisingTargets, ModelInputs, base

from .paradigm import AutoregressiveParadigm

if TYPE_CHECKING:
    from . import Autoregressive


class DrawnBlocks(AutoregressiveParadigm):
    """`AutoregressiveParadigm` that names the blocks of each training batch anew.

    Frames, actions and noise levels are as ever; which block each belongs to is drawn, and so is
    how far a block sees.
    """

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """As the paradigm's, and what the sample sees (`ModelInputs.sees`)."""
        noisy, target = super().add_noise(inputs, schedules, rng)
        size, window = _draw(self.config.training_frames, rng), self.config.window
        if self.config.training_window is not None:
            window = _draw(self.config.training_window, rng)
        assert size is not None and noisy.video is not None
        frames = Counter(map(base, noisy.video.roles))["target"]
        action = noisy.noisy("action")
        steps = Counter(map(base, action.roles))["action"] // frames
        video = replace(noisy.video, roles=in_blocks(noisy.video.roles, size))
        action = replace(action, roles=in_blocks(action.roles, size * steps))
        sees = self.visibility(-(-frames // size), window)
        return noisy.with_(video=video, action=action, sees=sees), target

    def visibility(self, blocks: int, window: int | None) -> Visibility:
        """The table of so many blocks, each of which sees so far."""
        return _visibility(self.config, blocks, window)

    def _copies(self, role: str) -> int:
        """All, if any token sees them: which blocks are the last of a sample is not known yet."""
        return self.config.chunks if role != "did" or self.config.remembers_actions else 0


@lru_cache(maxsize=64)  # a table of a long sample has megabytes
def _visibility(config: Autoregressive, blocks: int, window: int | None) -> Visibility:
    """The table of `DrawnBlocks.visibility`, made once."""
    return config.model_copy(update={"chunks": blocks, "window": window}).sees


def in_blocks(roles: Sequence[str], size: int) -> tuple[str, ...]:
    """Roles named by blocks of `size`, counted for each kind; the last one may be shorter."""
    before: Counter[str] = Counter()
    named = []
    for role in roles:
        kind = base(role)
        named.append(f"{kind}.{before[kind] // size}")
        before[kind] += 1
    return tuple(named)


def _draw(bounds: tuple[int, int] | None, rng: torch.Generator) -> int:
    """A whole number between bounds, both included."""
    assert bounds is not None
    low, high = bounds
    return low + int(float(draw_uniform((), rng)) * (high - low + 1))
