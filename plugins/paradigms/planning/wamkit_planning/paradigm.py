"""Proposals, their futures and their values as rows of one batch, and the choice among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wamkit.engine.layers import to_device
from wamkit.engine.noise_schedule import draw_noise, draw_uniform, spawn_generators
from wamkit.errors import WamkitError
from wamkit.interfaces.batched_proposals import SharedPrefill, proposal_generators, sample_indices
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

if TYPE_CHECKING:
    from . import Planning

SUCCESS = -0.9  # 0.05 on a scale from 0 to 1


def aggregate_values(values: Tensor, rule: str) -> Tensor:
    """Scores [R] of values [M, R] in [-1, 1], by "mean" or "majority".

    The latter is Cosmos Policy's "majority_mean" (`cosmos_utils.py`, commit 18a2acc) on its own
    scale from 0 to 1: the mean of the values above 0.05 if at least half of them are, otherwise 0.
    """
    if rule == "mean":
        return values.mean(0)
    good = values > SUCCESS
    mean = (values * good).sum(0) / good.sum(0).clamp(min=1)
    return torch.where(2 * good.sum(0) >= len(values), mean, -torch.ones_like(mean))


class PlanningParadigm(Paradigm):
    """Best of N around any paradigm."""

    def __init__(self, config: Planning) -> None:
        self.config = config
        self.sees = config.sees
        self.inner: Paradigm = config.inner.build()
        self.act_options: Mapping[str, str] = {
            **self.inner.act_options,
            "proposals": "how many proposals are compared; 1 acts directly",
        }

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        *,
        proposals: int | None = None,
        **act_options: Any,
    ) -> ParadigmOutput:
        """The proposal with the highest score, the first of those that are equal.

        `rng` itself draws proposal 0, which is the direct output of the inner paradigm; futures,
        values and the other proposals have generators of their own, seeded by `rng` before that.
        The observation is prefilled once. Raises WamkitError if `proposals` is no count.
        """
        count = self._count(proposals)
        if count == 1:
            return self.inner.act(model, self._own(inputs), schedules, rng, **act_options)
        beyond, index = spawn_generators(rng, count)[-1], sample_indices(inputs, count)
        draws, observed = proposal_generators(rng, count), SharedPrefill(model, inputs)
        many = self._own(inputs).pick(index)
        out = self.inner.act(observed.copies(count), many, schedules, draws, **act_options)
        scores = self._scores(observed, inputs, out, schedules, beyond).unflatten(0, (count, -1))
        best = scores.argmax(0)  # [B]
        samples = sample_indices(inputs, 1)
        chosen = best * len(samples) + samples
        return ParadigmOutput(
            out.action[chosen],
            None if out.video is None else out.video.pick(chosen),
            scores[best, samples],
            {
                **{name: note[chosen] for name, note in out.notes.items()},
                "value": scores[best, samples],
                "spread": scores.std(0),
            },
        )

    def _count(self, proposals: int | None) -> int:
        count = self.config.proposals if proposals is None else proposals
        if not isinstance(count, int) or count < 1:
            raise WamkitError(f"{count!r} proposals", "choose a whole number from 1 on")
        return count

    def _own(self, inputs: ModelInputs) -> ModelInputs:
        """The inputs as the inner paradigm knows them."""
        return inputs.without("value") if self.config.learns_value else inputs

    def _scores(
        self,
        observed: SharedPrefill,
        inputs: ModelInputs,
        out: ParadigmOutput,
        schedules: ScheduleMap,
        rng: torch.Generator,
    ) -> Tensor:
        """A score for each row of the proposals [N * B]; futures are drawn before values."""
        count, config = len(out.action) // len(inputs.text.tokens), self.config
        cache, rest = prefill(observed.copies(1), inputs, self.sees)
        model = observed.copies(1)
        futures = config.futures or 1 if config.future == "foreseen" else 1
        index = sample_indices(inputs, count * futures)
        rest = rest.pick(index).put("action", out.action.repeat(futures, 1, 1), 0.0)
        known = None if cache is None else cache.pick(index)
        draws = proposal_generators(rng, futures)
        if config.future == "proposed":
            rest = _with_future(rest, out, config.inner.name)
        elif config.future == "foreseen":
            rest = self._foresee(model, rest, schedules, draws, known)
        index = torch.arange(len(index), device=index.device).repeat(config.values)
        known = None if known is None else known.pick(index)
        draws = proposal_generators(draws, config.values)
        values = self._judge(model, rest.pick(index), schedules, draws, known)
        return aggregate_values(values.unflatten(0, (-1, len(out.action))), config.rule)

    def _foresee(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None,
    ) -> ModelInputs:
        """Predict the future of the clean action of the inputs."""
        if not self.config.learns_value:
            return self.inner.predict_future(model, inputs, schedules, rng, cache)
        parts: list[str] = [part for part in ("video", "next_state") if part in inputs.parts]
        samplers = {part: init_sampler(part, inputs, schedules, rng) for part in parts}
        denoise(model, self._own(inputs), samplers, cache)
        for part, sampler in samplers.items():
            inputs = inputs.put(part, sampler.x, 0.0)
        return inputs

    def _judge(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None,
    ) -> Tensor:
        """Values [B] of actions and their futures."""
        if not self.config.learns_value:
            return self.inner.estimate_value(model, inputs, schedules, rng, cache)  # type: ignore[attr-defined, no-any-return]
        if self.config.future == "none":
            inputs = inputs.without("video")
        sampler = init_sampler("value", inputs, schedules, rng)
        denoise(model, inputs, {"value": sampler}, cache)
        return sampler.x.float().flatten(1).mean(1).clamp(-1, 1)

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """As the inner paradigm does."""
        return self.inner.imagine(model, self._own(inputs), schedules, rng)

    def predict_future(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> ModelInputs:
        """As the inner paradigm does."""
        return self.inner.predict_future(model, self._own(inputs), schedules, rng, cache)

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """The inner paradigm's samples; where it knows no value, some of them teach the value.

        In these everything else is clean and has no loss. In the others the value is pure noise,
        which nothing but itself sees.
        """
        noisy, target = self.inner.add_noise(self._own(inputs), schedules, rng)
        if not self.config.learns_value:
            return noisy, target
        flow, value = schedules["value"], inputs.take("value")
        batch = len(value)
        teaches = draw_uniform((batch,), rng) < self.config.value_share
        noise = draw_noise(tuple(value.shape), value, rng)
        level = flow.sample((batch,), value, rng)
        teaches = to_device(teaches, level.device)
        targets: dict[str, DenoisingTarget] = {}
        for part, found in target.items():
            weight = found.weight * (~teaches).reshape(-1, *(1,) * (found.weight.ndim - 1))
            targets[part] = DenoisingTarget(found.velocity, weight, found.places)
            noisy = _with_clean_action(noisy, part, inputs.take(part), teaches)
        sigma = torch.where(teaches, level, torch.ones_like(level))
        noisy = noisy.with_(value=inputs.value).put("value", flow.add(value, noise, sigma), sigma)
        weight = flow.weight(level) * teaches
        targets["value"] = make_target(noisy, "value", flow.velocity(value, noise), weight)
        return noisy, targets


def _with_clean_action(noisy: ModelInputs, part: str, clean: Tensor, where: Tensor) -> ModelInputs:
    """The noisy inputs with a part clean in the samples `where` [B]."""
    x = noisy.take(part)
    mask = where.reshape(-1, *(1,) * (x.ndim - 1))
    if part == "video":
        assert noisy.clip is not None
        sigma = noisy.clip.sigma[:, noisy.clip.span(*noisy.clip.targets)]
    else:
        sigma = noisy.noisy(part).sigma
    level = sigma.masked_fill(where.reshape(-1, *(1,) * (sigma.ndim - 1)), 0.0)
    return noisy.put(part, torch.where(mask, clean.to(x.dtype), x), level)


def _with_future(rest: ModelInputs, out: ParadigmOutput, inner: str) -> ModelInputs:
    """The inputs with the frames that the proposals were made with."""
    if "video" not in rest.parts:
        return rest
    if out.video is None:
        raise WamkitError(
            f"{inner} imagined nothing for its proposals, and their value is learned from what it "
            "imagines",
            "let it imagine, or choose an inner paradigm whose action sees no future",
        )
    clip = out.video
    frames, level = clip.z[:, :, clip.span(*clip.targets)], clip.level_of(clip.targets[0])
    return rest.put("video", frames, level if isinstance(level, Tensor) else level[0])
