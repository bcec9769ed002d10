"""One prefill of the observation, then only the action is denoised; trained beside the video."""

from __future__ import annotations

from typing import Any

import torch

from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    corrupt,
    denoise,
    remember,
    start,
)
from wamkit.types import Outcome, Scene, Target
from wamkit.visibility import Visibility


class SinglePassParadigm(Paradigm):
    """Fast-WAM's schedule over any backbone and head."""

    def __init__(self, sees: Visibility) -> None:
        self.sees = sees

    def act(
        self,
        model: Model,
        scene: Scene,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **choices: Any,
    ) -> Outcome:
        """One pass over what is observed, then action steps against its keys."""
        run = start("action", scene, schedules, rng)
        cache, rest = remember(model, scene.without("video"), self.sees)
        return Outcome(denoise(model, rest, {"action": run}, cache).take("action"))

    def corrupt(
        self, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[Scene, Target]:
        """Future and action at independent noise levels; the context stays clean."""
        return corrupt(scene, schedules, rng)
