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
"""model(scene, cache=None, keep=()) -> Velocity: backbone, head and visibility in one function.

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
    """Whether acting passes frames that are to come; `act` is given a scene without any if not."""
    streams: bool = False
    """Whether a chunk knows of those before: `act` is then given the scene at the beginning of the
    episode, with `ModelInputs.past` from the second chunk on. An output without memory ends the
    episode for the network; the next chunk begins anew."""

    @abstractmethod
    def act(
        self,
        model: Model,
        scene: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        **choices: Any,
    ) -> ParadigmOutput:
        """Noise to normalized actions [B, N, A]."""

    @abstractmethod
    def corrupt(
        self, scene: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """A noisy scene for training, and what to predict for it."""

    def imagine(
        self, model: Model, scene: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The clip of the scene with its target frames denoised, without any action.

        What is known and closed under `sees` is passed through the network once.
        """
        clip = scene.clip
        if clip is None or not clip.targets:
            raise ValueError("there is no video in the scene to imagine")
        seen = scene.without("action", "next_state", "value")
        cache, rest = remember(model, seen, self.sees)
        done = denoise(model, rest, {"video": start("video", scene, schedules, rng)}, cache)
        return clip.put(done.take("video"), *clip.targets).at(0.0, *clip.targets)


def remember(
    model: Model, scene: ModelInputs, sees: LayerVisibility, roles: Collection[str] = CLEAN
) -> tuple[KVCache | None, ModelInputs]:
    """One pass over those of `roles` that are closed under `sees`, and the scene without them.

    Nothing is passed, and None returned, if the frames among `roles` look at anything else. Words
    that have the noise level of target frames (`Text.follows`) are not closed beside any.
    """
    depends = followed(sees, scene.roles) if scene.text.follows else sees
    known = cacheable_subset(roles, depends, scene.roles)
    if scene.video is None or not set(scene.video.roles) & known:
        return None, scene
    inside = scene.without("action", "next_state", "value")
    inside = inside.with_(video=scene.video.only(*known), future=None)
    keep = tuple(sorted(known & scene.roles))
    cache = model(inside, keep=keep).cache
    rest = tuple(role for role in dict.fromkeys(scene.video.roles) if role not in known)
    return cache, scene.with_(video=scene.video.only(*rest) if rest else None)


def start(
    part: str,
    scene: ModelInputs,
    schedules: ScheduleMap,
    rng: torch.Generator,
    *,
    steps: int | None = None,
    until: float = 0.0,
) -> Run:
    """A sampling run of one part, from noise of the shape it has in the scene."""
    like = scene.take(part)
    noise = draw(tuple(like.shape), like, rng)
    return schedules[part].start(noise, steps=steps, rng=rng, until=until)


def denoise(
    model: Model, scene: ModelInputs, runs: Mapping[str, Run], cache: KVCache | None = None
) -> ModelInputs:
    """The scene with the parts of `runs` denoised together; one that is done first stays as it is.

    Each evaluation is one pass over the scene, with what is in `cache` besides.
    """
    for part, run in runs.items():
        scene = scene.put(part, run.x, run.level)
    while not all(run.done for run in runs.values()):
        velocity = model(scene, cache=cache)
        for part, run in runs.items():
            if not run.done:
                run.advance(velocity.take(part, scene))
                scene = scene.put(part, run.x, run.level)
    return scene


def corrupt(
    scene: ModelInputs, schedules: ScheduleMap, rng: torch.Generator, parts: Collection[str] = ()
) -> tuple[ModelInputs, DenoisingTargets]:
    """Clean parts of a scene (all, or `parts`), each at a noise level of its own, and their goals.

    A part whose schedule is `tied` takes the level of the first part that is not.
    """
    batch = scene.text.tokens.shape[0]
    chosen = [part for part in _ORDER if part in (parts or scene.parts) and part in scene.parts]
    target: dict[str, DenoisingTarget] = {}
    leader: Tensor | None = None
    for part in sorted(chosen, key=lambda part: schedules[part].config.tied):
        flow, x = schedules[part], scene.take(part)
        noise = draw(tuple(x.shape), x, rng)
        tied = flow.config.tied and leader is not None
        sigma = leader if tied and leader is not None else flow.sample((batch,), x, rng)
        leader = sigma if leader is None else leader
        scene = scene.put(part, flow.add(x, noise, sigma), sigma)
        target[part] = goal(scene, part, flow.velocity(x, noise), flow.weight(sigma))
    return scene, target


_ORDER = ("action", "video", "next_state", "value")


def goal(scene: ModelInputs, part: str, velocity: Tensor, weight: Tensor) -> DenoisingTarget:
    """The goal of one part at one noise level a sample, with the places of what is denoised."""
    if part != "video":
        return DenoisingTarget(velocity, weight)
    assert scene.clip is not None
    places = tuple(scene.clip.where(*scene.clip.targets))
    return DenoisingTarget(velocity, weight[:, None].expand(-1, len(places)), places)


def levelled(scene: ModelInputs) -> ModelInputs:
    """The scene with its clean frames told the noise level of the target frames.

    So it is in networks that were trained with one level for all frames of a pass.
    """
    clip = scene.clip
    if scene.video is None or clip is None or not clip.targets:
        return scene
    level = clip.level_of(clip.targets[0])
    given = level if isinstance(level, Tensor) else level[0]
    return scene.with_(video=scene.video.at(given, "context"))
