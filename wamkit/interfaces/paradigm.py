"""What a paradigm promises: noise to actions, and clean data to something to learn from.

Below the contract stand the few moves that paradigms are made of: `remember` what is closed,
`denoise` some parts together, `corrupt` clean parts for training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility, cacheable_subset, followed
from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import NoiseSchedule, draw
from ..engine.samplers import Run
from .types import (
    DenoisingTarget,
    DenoisingTargets,
    Frames,
    ModelInputs,
    ModelOutput,
    ParadigmOutput,
)

Model = Callable[..., ModelOutput]
"""model(inputs, cache=None, keep=()) -> ModelOutput: backbone, head and visibility in one function.

If `keep` covers every role of a pass this is a prefill: it predicts nothing.
"""

ScheduleMap = Mapping[str, NoiseSchedule]
"""part -> its schedule, for each of `wamkit.interfaces.types.MODALITIES`."""

CLEAN = ("text", "context", "state")
"""The roles of what is known when a chunk begins."""


class Paradigm(ABC):
    """When each part is denoised. Knows roles and schedules, and no backbone or head by name.

    Scenes come complete: in training every part holds clean data, in use whatever has not happened
    yet is blank at level 1, and only its shape matters. Frames that are to come are there only for
    who `looks_ahead`.
    """

    sees: LayerVisibility
    choices: Mapping[str, str] = {}
    """What a caller may choose for one chunk, as keyword arguments of `act`: name -> what it is."""
    looks_ahead: bool = True
    """Whether `act` needs target frames; its inputs have none otherwise."""
    streams: bool = False
    """Whether a chunk knows of those before: `act` is then given the inputs at the beginning of the
    episode, with `ModelInputs.past` from the second chunk on. An output without memory ends the
    episode for the network; the next chunk begins anew."""

    @abstractmethod
    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **choices: Any,
    ) -> ParadigmOutput:
        """Noise to normalized actions [B, N, A]."""

    @abstractmethod
    def corrupt(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Noisy inputs for training, and what to predict for it."""

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The clip of the inputs with its target frames denoised, without any action.

        What is known and closed under `sees` is passed through the network once.
        """
        clip = inputs.clip
        if clip is None or not clip.targets:
            raise ValueError("the inputs have no video to imagine")
        seen = inputs.without("action", "next_state", "value")
        cache, rest = remember(model, seen, self.sees)
        done = denoise(model, rest, {"video": start("video", inputs, schedules, rng)}, cache)
        return clip.put(done.take("video"), *clip.targets).at(0.0, *clip.targets)


def remember(
    model: Model, inputs: ModelInputs, sees: LayerVisibility, roles: Collection[str] = CLEAN
) -> tuple[KVCache | None, ModelInputs]:
    """One pass over those of `roles` that are closed under `sees`, and the inputs without them.

    Nothing is passed, and None returned, if the frames among `roles` look at anything else. Words
    that have the noise level of target frames (`Text.follows`) are not closed beside any.
    """
    depends = followed(sees, inputs.roles) if inputs.text.follows else sees
    known = cacheable_subset(roles, depends, inputs.roles)
    if inputs.video is None or not set(inputs.video.roles) & known:
        return None, inputs
    inside = inputs.without("action", "next_state", "value")
    inside = inside.with_(video=inputs.video.only(*known), future=None)
    keep = tuple(sorted(known & inputs.roles))
    cache = model(inside, keep=keep).cache
    rest = tuple(role for role in dict.fromkeys(inputs.video.roles) if role not in known)
    return cache, inputs.with_(video=inputs.video.only(*rest) if rest else None)


def start(
    part: str,
    inputs: ModelInputs,
    schedules: ScheduleMap,
    rng: torch.Generator,
    *,
    steps: int | None = None,
    until: float = 0.0,
) -> Run:
    """A sampling run of one part, from noise of the shape it has in the inputs."""
    like = inputs.take(part)
    noise = draw(tuple(like.shape), like, rng)
    return schedules[part].start(noise, steps=steps, rng=rng, until=until)


def denoise(
    model: Model, inputs: ModelInputs, runs: Mapping[str, Run], cache: KVCache | None = None
) -> ModelInputs:
    """The inputs with the parts of `runs` denoised together; one that is done first stays as it is.

    Each evaluation is one pass over the inputs, with what is in `cache` besides.
    """
    for part, run in runs.items():
        inputs = inputs.put(part, run.x, run.level)
    while not all(run.done for run in runs.values()):
        velocity = model(inputs, cache=cache)
        for part, run in runs.items():
            if not run.done:
                run.advance(velocity.take(part, inputs))
                inputs = inputs.put(part, run.x, run.level)
    return inputs


def corrupt(
    inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator, parts: Collection[str] = ()
) -> tuple[ModelInputs, DenoisingTargets]:
    """Clean parts of inputs (all, or `parts`), each at a noise level of its own, and their goals.

    A part whose schedule is `tied` takes the level of the first part that is not.
    """
    batch = inputs.text.tokens.shape[0]
    chosen = [part for part in _ORDER if part in (parts or inputs.parts) and part in inputs.parts]
    target: dict[str, DenoisingTarget] = {}
    leader: Tensor | None = None
    for part in sorted(chosen, key=lambda part: schedules[part].config.tied):
        flow, x = schedules[part], inputs.take(part)
        noise = draw(tuple(x.shape), x, rng)
        tied = flow.config.tied and leader is not None
        sigma = leader if tied and leader is not None else flow.sample((batch,), x, rng)
        leader = sigma if leader is None else leader
        inputs = inputs.put(part, flow.add(x, noise, sigma), sigma)
        target[part] = goal(inputs, part, flow.velocity(x, noise), flow.weight(sigma))
    return inputs, target


_ORDER = ("action", "video", "next_state", "value")


def goal(inputs: ModelInputs, part: str, velocity: Tensor, weight: Tensor) -> DenoisingTarget:
    """The goal of one part at one noise level a sample, with the places of what is denoised."""
    if part != "video":
        return DenoisingTarget(velocity, weight)
    assert inputs.clip is not None
    places = tuple(inputs.clip.where(*inputs.clip.targets))
    return DenoisingTarget(velocity, weight[:, None].expand(-1, len(places)), places)


def levelled(inputs: ModelInputs) -> ModelInputs:
    """The inputs with their clean frames at the noise level of the target frames.

    So it is in networks that were trained with one level for all frames of a pass.
    """
    clip = inputs.clip
    if inputs.video is None or clip is None or not clip.targets:
        return inputs
    level = clip.level_of(clip.targets[0])
    given = level if isinstance(level, Tensor) else level[0]
    return inputs.with_(video=inputs.video.at(given, "context"))
