"""A paradigm of your own, the part that runs: one loop to act, one line to learn."""

from typing import Any

from wamkit.config.visibility import Visibility
from wamkit.interfaces.paradigm import Paradigm, corrupt, denoise, remember, start
from wamkit.interfaces.types import DenoisingTargets, ModelInputs, ParadigmOutput


class GlanceParadigm(Paradigm):
    def __init__(self, sees: Visibility) -> None:
        self.sees = sees

    def act(
        self, model: Any, inputs: ModelInputs, schedules: Any, rng: Any, **choices: Any
    ) -> ParadigmOutput:
        if "video" in inputs.parts:
            inputs = inputs.put("video", start("video", inputs, schedules, rng).x, 1.0)
        cache, rest = remember(model, inputs, self.sees, ("text", "context", "state", "target"))
        runs = {"action": start("action", inputs, schedules, rng)}
        return ParadigmOutput(denoise(model, rest, runs, cache).take("action"))

    def corrupt(
        self, inputs: ModelInputs, schedules: Any, rng: Any
    ) -> tuple[ModelInputs, DenoisingTargets]:
        return corrupt(inputs, schedules, rng)
