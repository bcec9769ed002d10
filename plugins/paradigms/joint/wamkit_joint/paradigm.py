"""Video and action in one loop; between refreshes of the video its keys and values are kept."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import torch

from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    add_context_noise,
    add_noise,
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
    from . import Joint


class JointParadigm(Paradigm):
    """Fast-WAM-Joint and Efficient-WAM over any backbone and head."""

    def __init__(self, config: Joint) -> None:
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
        """One evaluation of the action after the other, and of the video wherever it is due.

        With refresh = "every", the part that is finished first stays fixed and is still attended
        to; a finished video that does not attend to the action is passed once more, and its keys
        are cached.
        """
        model, refresh, complete = self._with_context_level(model), self.config.refresh, inputs
        steps = None if refresh == "every" else len(refresh)
        video = init_sampler("video", inputs, schedules, rng, steps=steps)
        action = init_sampler("action", inputs, schedules, rng)
        cache, inputs = prefill(model, inputs, self.sees)
        known, clip = cache, inputs.clip
        roles = {"text", *(inputs.video.roles if inputs.video is not None else ())}
        roles.update(clip.roles if clip is not None else ())
        place = 0
        while not action.done or (refresh == "every" and not video.done):
            inputs = inputs.put("action", action.x, action.level)
            if self._due(place, video.evaluations):
                inputs = inputs.put("video", video.x, video.level)
                keep = () if self._due(place + 1, video.evaluations) else tuple(sorted(roles))
                velocity = model(inputs, cache=cache, keep=keep)
                if keep and velocity.cache is not None:
                    known = velocity.cache if cache is None else cache | velocity.cache
                if not video.done:
                    video.step(velocity.take("video", inputs))
            else:
                velocity = model(inputs.with_(video=None, future=None), cache=known)
            if not action.done:
                action.step(velocity.take("action", inputs))
            place += 1
        return ParadigmOutput(action.x, complete.put("video", video.x, video.sigma).clip)

    def _due(self, place: int, evaluations: int) -> bool:
        """Whether the video is passed at evaluation `place` of the action."""
        if self.config.refresh != "every":
            return place in self.config.refresh
        return place <= evaluations or "action" in self.config.sees["target"]

    def _with_context_level(self, model: Model) -> Model:
        """The model, with observed frames at the noise level that `context_level` asks for."""
        if self.config.context_level == "clean":
            return model

        def at_target_level(
            inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            return model(match_context_sigma(inputs), cache=cache, keep=keep)

        return at_target_level

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Video and action at levels of their own, or at one if a schedule is tied."""
        noisy, target = add_noise(inputs, schedules, rng)
        if self.config.context_noise:
            noisy = add_context_noise(noisy, self.config.context_noise, rng)
        return (
            noisy if self.config.context_level == "clean" else match_context_sigma(noisy)
        ), target

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """As of any paradigm, with observed frames at the noise level of training."""
        return super().imagine(self._with_context_level(model), inputs, schedules, rng)

    def predict_future(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> ModelInputs:
        """As of any paradigm, with observed frames at the noise level of training."""
        model = self._with_context_level(model)
        return super().predict_future(model, inputs, schedules, rng, cache)
