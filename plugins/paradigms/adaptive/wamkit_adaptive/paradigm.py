"""Fast proposals, their disagreement, and deliberation for the samples that need it."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wamkit.engine.noise_schedule import SubsetGenerator, clone_generator
from wamkit.interfaces.batched_proposals import SharedPrefill, proposal_generators, sample_indices
from wamkit.interfaces.paradigm import Model, Paradigm, ScheduleMap
from wamkit.interfaces.types import DenoisingTargets, Frames, KVCache, ModelInputs, ParadigmOutput

from .budget import calibrate_threshold

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wamkit.policy.observation import Observation
    from wamkit.policy.policy import Policy

    from . import Adaptive


class AdaptiveParadigm(Paradigm):
    """Two ways of one paradigm over one network, and a choice between them sample by sample."""

    act_options: Mapping[str, str] = {
        "deliberate": "True or False: every sample does, or none does, whatever the proposals say"
    }

    def __init__(self, config: Adaptive) -> None:
        self.config = config
        self.sees = config.sees
        self.inner: Paradigm = config.inner.build()
        self.fast: Paradigm = config.way("fast").build()
        self.slow: Paradigm = config.way("slow").build()

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        *,
        deliberate: bool | None = None,
        **act_options: Any,
    ) -> ParadigmOutput:
        """The first fast proposal where all agree, a deliberate chunk where they do not.

        Both begin with `rng` as it is given: the first proposal is what acting fast would do, and
        samples that all deliberate do what acting slowly would do. With a threshold of 0 or
        infinity nothing is compared. Which samples deliberate is asked of the device once a chunk.
        """
        if deliberate is None and self.config.threshold in (0, inf):
            deliberate = self.config.threshold == 0
        if deliberate is not None:
            out = (self.slow if deliberate else self.fast).act(model, inputs, schedules, rng)
            every = torch.full_like(sample_indices(inputs, 1), int(deliberate)).bool()
            return ParadigmOutput(
                out.action, out.video, out.value, {**out.notes, "deliberated": every}
            )
        aside = clone_generator(rng)
        observed = SharedPrefill(model, inputs)
        out, disagreement = self.disagreement_of(observed, inputs, schedules, rng)
        hard = disagreement > self.config.threshold
        notes = {"disagreement": disagreement, "deliberated": hard}
        index = hard.nonzero()[:, 0]  # waits for the device
        if len(index) == 0:
            return ParadigmOutput(out.action, out.video, out.value, notes)
        aside = SubsetGenerator(aside, index, len(hard))
        found = self.slow.act(observed.some(index), inputs.pick(index), schedules, aside)
        value = None
        if out.value is not None and found.value is not None:
            value = out.value.index_copy(0, index, found.value)
        return ParadigmOutput(
            out.action.index_copy(0, index, found.action),
            _merge_chunks(out.video, found.video, index),
            value,
            notes,
        )

    def disagreement_of(
        self,
        observed: SharedPrefill,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
    ) -> tuple[ParadigmOutput, Tensor]:
        """The first fast proposal, and how far all of them disagree [B].

        That is the mean over steps n and dimensions a of a normalized chunk of the standard
        deviation over the proposals k, sqrt(sum_k (x_kna - mean_k x_kna)^2 / (K - 1)).
        """
        count = self.config.proposals
        many, draws = inputs.pick(sample_indices(inputs, count)), proposal_generators(rng, count)
        out = self.fast.act(observed.copies(count), many, schedules, draws)
        apart = out.action.float().unflatten(0, (count, -1)).std(0).mean((1, 2))
        first = sample_indices(inputs, 1)
        video = None if out.video is None else out.video.pick(first)
        value = None if out.value is None else out.value[first]
        return ParadigmOutput(out.action[first], video, value), apart

    def calibrate(
        self,
        policy: Policy,
        observations: Iterable[Observation],
        budget: float,
        *,
        seed: int = 0,
    ) -> dict[str, float]:
        """Set the threshold so that chunks cost on average `budget` times a fast one.

        See `budget.calibrate_threshold`. The policy's spec takes the threshold, so that it is
        saved.
        """
        report = calibrate_threshold(self, policy, observations, budget, seed)
        self.config = self.config.model_copy(update={"threshold": report["threshold"]})
        policy.spec = policy.spec.model_copy(update={"paradigm": self.config})
        return report

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """As the inner paradigm does."""
        return self.inner.add_noise(inputs, schedules, rng)

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """As deliberation does."""
        return self.slow.imagine(model, inputs, schedules, rng)

    def predict_future(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> ModelInputs:
        """As deliberation does."""
        return self.slow.predict_future(model, inputs, schedules, rng, cache)


def _merge_chunks(clip: Frames | None, other: Frames | None, index: Tensor) -> Frames | None:
    """A clip with the samples `index` of another; None unless all samples have one."""
    if clip is None or other is None:
        return None
    z = clip.z.index_copy(0, index, other.z.to(clip.z.dtype))
    sigma = clip.sigma.index_copy(0, index, other.sigma)
    return Frames(z, clip.roles, clip.times, sigma, clip.cond_latents, clip.views)
