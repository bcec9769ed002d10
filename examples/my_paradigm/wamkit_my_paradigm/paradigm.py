"""A paradigm of your own, the part that runs: one loop to act, one line to learn."""

from typing import Any

from wamkit.config.visibility import Visibility
from wamkit.interfaces.paradigm import Paradigm, add_noise, denoise, init_sampler, prefill
from wamkit.interfaces.types import ModelInputs, ParadigmOutput


class GlanceParadigm(Paradigm):
    def __init__(self, sees: Visibility) -> None:
        self.sees = sees

    def act(self, model: Any, inputs: ModelInputs, schedules: Any, rng: Any, **_: Any) -> Any:
        if "video" in inputs.parts:
            inputs = inputs.put("video", init_sampler("video", inputs, schedules, rng).x, 1.0)
        cache, rest = prefill(model, inputs, self.sees, ("text", "context", "state", "target"))
        samplers = {"action": init_sampler("action", inputs, schedules, rng)}
        return ParadigmOutput(denoise(model, rest, samplers, cache).take("action"))

    def add_noise(self, inputs: ModelInputs, schedules: Any, rng: Any) -> Any:
        return add_noise(inputs, schedules, rng)
