"""The paradigm interface: denoise actions, and make training targets.

Below the contract stand the functions that paradigms are made of: `prefill` the KV cache, `denoise`
some modalities together, `add_noise` to clean modalities for training.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ..config.visibility import LayerVisibility, cacheable_subset, followed
from ..engine.device import to_device
from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import NoiseSchedule, draw_noise, draw_uniform
from ..engine.samplers import Sampler
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
"""The roles that are known when a chunk begins."""


class Paradigm(ABC):
    """The order of denoising. Knows roles and schedules, but no backbone or head by name.

    Inputs are complete: in training every modality holds clean data, at inference the future
    yet is blank at level 1, and only its shape matters. Frames that are to come are there only for
    who `needs_future`.
    """

    sees: LayerVisibility
    act_options: Mapping[str, str] = {}
    """Keyword arguments of `act` that a caller may set for one chunk: name -> meaning."""
    needs_future: bool = True
    """Whether `act` needs target frames; its inputs have none otherwise."""
    stateful: bool = False
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
        **act_options: Any,
    ) -> ParadigmOutput:
        """Noise to normalized actions [B, N, A]."""

    @abstractmethod
    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Noisy inputs for training, and the regression targets."""

    def imagine(
        self, model: Model, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The clip of the inputs with its target frames denoised, without any action.

        The roles that are known and closed under `sees` are prefilled once.
        """
        clip = inputs.clip
        if clip is None or not clip.targets:
            raise ValueError("the inputs have no video to imagine")
        seen = inputs.without("action", "next_state", "value")
        cache, rest = prefill(model, seen, self.sees)
        done = denoise(model, rest, {"video": init_sampler("video", inputs, schedules, rng)}, cache)
        return clip.put(done.take("video"), *clip.targets).at(0.0, *clip.targets)

    def predict_future(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        cache: KVCache | None = None,
    ) -> ModelInputs:
        """The inputs with target frames as they follow from their action, which is clean.

        Next state and value are among them if they were predicted too, at level 0. `cache` is the
        prefill of the observation, and the inputs then what is left. Called only where
        `ParadigmConfig.conflict_with_given_actions` finds none.
        """
        inputs = inputs.without("next_state", "value").put("action", inputs.take("action"), 0.0)
        video, rest = init_sampler("video", inputs, schedules, rng), inputs
        if cache is None:
            cache, rest = prefill(model, inputs, self.sees)
        denoise(model, rest, {"video": video}, cache)
        return inputs.put("video", video.x, 0.0)


def prefill(
    model: Model, inputs: ModelInputs, sees: LayerVisibility, roles: Collection[str] = CLEAN
) -> tuple[KVCache | None, ModelInputs]:
    """Return the KV cache of those of `roles` that only attend to each other, and the other inputs.

    The cache is None if the frames among `roles` attend to anything else, as text tokens do that
    have the noise level of target frames (`Text.follows`).
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


def init_sampler(
    part: str,
    inputs: ModelInputs,
    schedules: ScheduleMap,
    rng: torch.Generator,
    *,
    steps: int | None = None,
    until: float = 0.0,
) -> Sampler:
    """A sampler of one modality, from noise of the shape it has in the inputs."""
    like = inputs.take(part)
    noise = draw_noise(tuple(like.shape), like, rng)
    return schedules[part].init_sampler(noise, steps=steps, rng=rng, until=until)


def denoise(
    model: Model, inputs: ModelInputs, samplers: Mapping[str, Sampler], cache: KVCache | None = None
) -> ModelInputs:
    """The inputs with the modalities of `samplers` denoised together.

    Each evaluation is one forward pass over the inputs and `cache`; a sampler that is done
    early keeps its result. A step at which all samplers reuse the last velocity has no pass.
    """
    for part, sampler in samplers.items():
        inputs = inputs.put(part, sampler.x, sampler.level)
    velocity: ModelOutput | None = None
    while left := [sampler for sampler in samplers.values() if not sampler.done]:
        if velocity is None or not all(sampler.reuses_velocity for sampler in left):
            velocity = model(inputs, cache=cache)
        for part, sampler in samplers.items():
            if not sampler.done:
                sampler.step(velocity.take(part, inputs))
                inputs = inputs.put(part, sampler.x, sampler.level)
    return inputs


def add_noise(
    inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator, parts: Collection[str] = ()
) -> tuple[ModelInputs, DenoisingTargets]:
    """Noise added to clean modalities (all, or `parts`), each at its own level, and their targets.

    A part whose schedule is `shared_sigma` takes the level of the first part that is not.
    """
    batch = inputs.text.tokens.shape[0]
    chosen = [part for part in _ORDER if part in (parts or inputs.parts) and part in inputs.parts]
    target: dict[str, DenoisingTarget] = {}
    leader: Tensor | None = None
    for part in sorted(chosen, key=lambda part: schedules[part].config.shared_sigma):
        flow, x = schedules[part], inputs.take(part)
        noise = draw_noise(tuple(x.shape), x, rng)
        tied = flow.config.shared_sigma and leader is not None
        sigma = leader if tied and leader is not None else flow.sample((batch,), x, rng)
        leader = sigma if leader is None else leader
        inputs = inputs.put(part, flow.add(x, noise, sigma), sigma)
        target[part] = make_target(inputs, part, flow.velocity(x, noise), flow.weight(sigma))
    return inputs, target


_ORDER = ("action", "video", "next_state", "value")


def make_target(
    inputs: ModelInputs, part: str, velocity: Tensor, weight: Tensor
) -> DenoisingTarget:
    """The target of one modality at one noise level a sample, with the positions of the frames."""
    if part != "video":
        return DenoisingTarget(velocity, weight)
    assert inputs.clip is not None
    places = tuple(inputs.clip.where(*inputs.clip.targets))
    return DenoisingTarget(velocity, weight[:, None].expand(-1, len(places)), places)


def add_context_noise(inputs: ModelInputs, most: float, rng: torch.Generator) -> ModelInputs:
    """The inputs with a share of noise, up to `most`, in their observed frames.

    The share is drawn for each sample; the frames are still called clean.
    """
    if inputs.video is None or "context" not in inputs.video.roles:
        return inputs
    clean = inputs.video.only("context").z
    share = most * draw_uniform((len(clean),), rng)
    share = to_device(share, clean.device)[:, None, None, None, None]
    noise = draw_noise(tuple(clean.shape), clean, rng)
    return inputs.with_(video=inputs.video.put(clean + share * (noise - clean), "context"))


def match_context_sigma(inputs: ModelInputs) -> ModelInputs:
    """The inputs with their clean frames at the noise level of the target frames.

    So it is in networks that were trained with one level for all frames of a pass.
    """
    clip = inputs.clip
    if inputs.video is None or clip is None or not clip.targets:
        return inputs
    level = clip.level_of(clip.targets[0])
    given = level if isinstance(level, Tensor) else level[0]
    return inputs.with_(video=inputs.video.at(given, "context"))
