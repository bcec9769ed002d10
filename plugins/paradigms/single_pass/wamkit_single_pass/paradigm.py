"""One prefill of the observation, then only the action is denoised; trained with the video."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    add_noise,
    denoise,
    init_sampler,
    prefill,
)
from wamkit.interfaces.types import DenoisingTargets, ModelInputs, ParadigmOutput

if TYPE_CHECKING:
    from . import SinglePass


class SinglePassParadigm(Paradigm):
    """Fast-WAM's schedule over any backbone and head."""

    needs_future = False

    def __init__(self, config: SinglePass) -> None:
        self.config = config
        self.sees = config.sees

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **act_options: Any,
    ) -> ParadigmOutput:
        """One prefill of the observation, then action steps against its keys."""
        sampler = init_sampler("action", inputs, schedules, rng)
        cache, rest = prefill(model, inputs.without("video"), self.sees)
        return ParadigmOutput(denoise(model, rest, {"action": sampler}, cache).take("action"))

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Future and action at independent noise levels; the context stays clean."""
        return add_noise(
            inputs if self.config.co_training else inputs.without("video"), schedules, rng
        )
