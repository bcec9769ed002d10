"""One prefix pass at a stated noise level, then action steps; the edit itself is for training."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    add_noise,
    denoise,
    init_sampler,
    match_context_sigma,
    prefill,
)
from wamkit.interfaces.types import (
    DenoisingTargets,
    Frames,
    KVCache,
    ModelInputs,
    ModelOutput,
    ParadigmOutput,
)

if TYPE_CHECKING:
    from . import ImageEdit


class ImageEditParadigm(Paradigm):
    """ImageWAM's schedule over any backbone and head."""

    needs_future = False

    def __init__(self, config: ImageEdit) -> None:
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
        """One prefill of text and reference frames, then action steps against their keys."""
        sampler = init_sampler("action", inputs, schedules, rng)
        cache, rest = prefill(model, self._at_prefix_level(inputs.without("video")), self.sees)
        return ParadigmOutput(denoise(model, rest, {"action": sampler}, cache).take("action"))

    def _at_prefix_level(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs with their reference frames at the prefix level."""
        assert inputs.video is not None
        return inputs.with_(video=inputs.video.at(self.config.prefix_level, "context"))

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Edited frame and action at independent levels; reference frames stay as they are."""
        noisy, target = add_noise(inputs, schedules, rng)
        set_level = (
            match_context_sigma if self.config.training_level == "target" else self._at_prefix_level
        )
        return set_level(noisy), target

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The edited frame, with reference frames at the noise level of training."""
        if self.config.training_level == "same":
            return super().imagine(model, self._at_prefix_level(inputs), schedules, rng)

        def at_target_level(
            inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            return model(match_context_sigma(inputs), cache=cache, keep=keep)

        sampler = init_sampler("video", inputs, schedules, rng)
        done = denoise(at_target_level, inputs.without("action"), {"video": sampler})
        assert done.clip is not None
        return done.clip
