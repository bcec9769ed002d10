"""Four factorizations by noise levels alone: clean parts condition, noisy parts are predicted."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wamkit.engine.layers import constant, to_device
from wamkit.engine.noise_schedule import draw_noise, draw_uniform
from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    denoise,
    init_sampler,
    make_target,
    prefill,
)
from wamkit.interfaces.types import (
    DenoisingTarget,
    DenoisingTargets,
    Frames,
    KVCache,
    ModelInputs,
    ParadigmOutput,
)

from . import GIVEN, LEARNED

if TYPE_CHECKING:
    from . import Conditional


class ConditionalParadigm(Paradigm):
    """Cosmos Policy's samples over any backbone and any head that conditions on actions."""

    def __init__(self, config: Conditional) -> None:
        self.config = config
        self.sees = config.sees
        self.needs_future = config.act != "action_only"

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **act_options: Any,
    ) -> ParadigmOutput:
        """Action, future and value in one run, or the action alone if it sees no more.

        The action's noise is drawn first.
        """
        if self.config.act == "action_only":
            inputs = inputs.without("video", "next_state", "value")
        done = self._denoise("policy", model, inputs, schedules, rng, None)
        clip = done.clip if "video" in done.parts else None
        value = None if done.value is None else scalar_value(done.value.x)
        return ParadigmOutput(done.take("action"), clip, value)

    def predict_future(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> ModelInputs:
        """The inputs with target frames, next state and value as they follow from their action.

        The action is taken as it is, as clean. `cache` is the prefill of the observation,
        and the inputs then what is left; without it, it is passed here.
        """
        return self._denoise("world", model, inputs, schedules, rng, cache)

    def estimate_value(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> Tensor:
        """The value [B] in [-1, 1] of the inputs' action, target frames and next state.

        These are taken as clean. `cache` as of `predict_future`.
        """
        return scalar_value(
            self._denoise("value", model, inputs, schedules, rng, cache).take("value")
        )

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The clip of the inputs as it comes with, or after, the action that `act` takes."""
        out = self.act(model, inputs, schedules, rng)
        if out.video is not None:
            return out.video
        seen = self.predict_future(model, inputs.put("action", out.action, 0.0), schedules, rng)
        assert seen.clip is not None
        return seen.clip

    def _denoise(
        self,
        kind: str,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None,
    ) -> ModelInputs:
        """The inputs with what is learned in samples of `kind` denoised from noise."""
        present = inputs.parts
        for part in GIVEN[kind]:
            if part in present:
                inputs = inputs.put(part, inputs.take(part), 0.0)
        parts = [part for part in LEARNED[kind] if part in present]
        if self.config.levels == "shared":
            schedules = dict.fromkeys(parts, schedules[parts[0]])
        samplers = {part: init_sampler(part, inputs, schedules, rng) for part in parts}
        rest = inputs
        if cache is None:
            cache, rest = prefill(model, inputs, self.sees)
        denoise(model, rest, samplers, cache)
        for part, sampler in samplers.items():
            inputs = inputs.put(part, sampler.x, 0.0)
        return inputs

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Samples of all kinds in one batch, each kind with its share, drawn sample by sample.

        Conditions have level 0 and no loss; absent parts level 1 and no loss.
        """
        parts = [part for part in LEARNED["policy"] if part in inputs.parts]
        kind = self._kinds(inputs, rng)
        drawn = {}
        for part in parts:
            x, flow = inputs.take(part), schedules[part]
            drawn[part] = draw_noise(tuple(x.shape), x, rng), flow.sample((len(x),), x, rng)
        target: dict[str, DenoisingTarget] = {}
        for part in parts:
            leaders = [self._leader(name, part, parts) for name in LEARNED]
            learned = _where(kind, [part in names for names in LEARNED.values()])
            given = _where(kind, [part in names for names in GIVEN.values()])
            level = _per_sample(kind, [drawn[leader][1] for leader in leaders])
            weight = _per_sample(kind, [schedules[p].weight(drawn[p][1]) for p in leaders])
            sigma = torch.where(learned, level, (~given).to(level))
            counts = learned
            if part == "value" and not self.config.policy_value:
                counts = learned & (kind != 0)
            x, (noise, _), flow = inputs.take(part), drawn[part], schedules[part]
            inputs = inputs.put(part, flow.add(x, noise, sigma), sigma)
            target[part] = make_target(inputs, part, flow.velocity(x, noise), weight * counts)
        return inputs, target

    def _kinds(self, inputs: ModelInputs, rng: torch.Generator) -> Tensor:
        """The kind of each sample [B], as places in LEARNED."""
        tokens = inputs.text.tokens
        edges = torch.tensor(list(accumulate(self.config.shares))[:-1], device=rng.device)
        u = draw_uniform((tokens.shape[0],), rng)
        return to_device(torch.bucketize(u, edges, right=True), tokens.device)

    def _leader(self, kind: str, part: str, parts: list[str]) -> str:
        """The part whose level `part` takes in samples of a kind."""
        if self.config.levels == "independent":
            return part
        return next(p for p in LEARNED[kind] if p in parts)


def scalar_value(x: Tensor) -> Tensor:
    """Decode the value [B] in [-1, 1] from vectors [B, N, A]; a head may repeat it."""
    return x.float().flatten(1).mean(1).clamp(-1, 1)


def _where(kind: Tensor, flags: list[bool]) -> Tensor:
    """For each sample the flag of its kind [B] bool."""
    return constant(tuple(flags), torch.bool, kind.device)[kind]


def _per_sample(kind: Tensor, rows: list[Tensor]) -> Tensor:
    """For each sample the number of its kind [B]; `rows` [B] are those of one kind each."""
    return torch.stack(rows).gather(0, kind[None])[0]
