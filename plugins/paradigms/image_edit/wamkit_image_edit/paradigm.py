"""One prefix pass at a stated noise level, then action steps; the edit itself is for training."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    corrupt,
    denoise,
    levelled,
    remember,
    start,
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

    looks_ahead = False

    def __init__(self, config: ImageEdit) -> None:
        self.config = config
        self.sees = config.sees

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **choices: Any,
    ) -> ParadigmOutput:
        """One pass over words and reference frames, then action steps against their keys."""
        run = start("action", inputs, schedules, rng)
        cache, rest = remember(model, self._told(inputs.without("video")), self.sees)
        return ParadigmOutput(denoise(model, rest, {"action": run}, cache).take("action"))

    def _told(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs with their reference frames at the prefix level."""
        assert inputs.video is not None
        return inputs.with_(video=inputs.video.at(self.config.prefix_level, "context"))

    def corrupt(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Edited frame and action at independent levels; reference frames stay as they are."""
        noisy, target = corrupt(inputs, schedules, rng)
        told = levelled if self.config.training_level == "target" else self._told
        return told(noisy), target

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The edit itself, with reference frames told what training told them."""
        if self.config.training_level == "same":
            return super().imagine(model, self._told(inputs), schedules, rng)

        def told(
            inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            return model(levelled(inputs), cache=cache, keep=keep)

        run = start("video", inputs, schedules, rng)
        done = denoise(told, inputs.without("action"), {"video": run})
        assert done.clip is not None
        return done.clip
