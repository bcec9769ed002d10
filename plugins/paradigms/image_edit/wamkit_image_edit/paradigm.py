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
        scene: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **choices: Any,
    ) -> ParadigmOutput:
        """One pass over words and reference frames, then action steps against their keys."""
        run = start("action", scene, schedules, rng)
        cache, rest = remember(model, self._told(scene.without("video")), self.sees)
        return ParadigmOutput(denoise(model, rest, {"action": run}, cache).take("action"))

    def _told(self, scene: ModelInputs) -> ModelInputs:
        """The scene with its reference frames told the prefix level."""
        assert scene.video is not None
        return scene.with_(video=scene.video.at(self.config.prefix_level, "context"))

    def corrupt(
        self, scene: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Edited frame and action at independent levels; reference frames stay as they are."""
        noisy, target = corrupt(scene, schedules, rng)
        told = levelled if self.config.training_level == "target" else self._told
        return told(noisy), target

    def imagine(
        self, model: Model, scene: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The edit itself, with reference frames told what training told them."""
        if self.config.training_level == "same":
            return super().imagine(model, self._told(scene), schedules, rng)

        def told(
            scene: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            return model(levelled(scene), cache=cache, keep=keep)

        run = start("video", scene, schedules, rng)
        done = denoise(told, scene.without("action"), {"video": run})
        assert done.clip is not None
        return done.clip
