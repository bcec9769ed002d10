"""What a paradigm promises: noise to actions, and clean data to something to learn from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from itertools import pairwise

import torch
from torch import Tensor

from ..schedule import NoiseSchedule, draw
from ..types import Frames, KVCache, Scene, Target, Velocity
from ..visibility import Visibility, closed_part

Model = Callable[..., Velocity]
"""model(scene, cache=None, keep=()) -> Velocity: backbone, head and visibility in one function.

A pass over the video alone that is asked to keep something is a prefill: it predicts nothing.
"""

ScheduleMap = Mapping[str, NoiseSchedule]


class Paradigm(ABC):
    """When each part is denoised. Knows roles and schedules, and no backbone or head by name.

    Scenes come complete: in training `video` and `action` hold clean data, in use whatever has not
    happened yet is blank at level 1, and only its shape matters.
    """

    sees: Visibility

    @abstractmethod
    def act(
        self, model: Model, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> Tensor:
        """Noise to normalized actions [B, N, A]."""

    @abstractmethod
    def corrupt(
        self, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[Scene, Target]:
        """A noisy scene for training, and what to predict for it."""

    def imagine(
        self, model: Model, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> Frames:
        """The scene's video with its blank frames denoised, without any action.

        What is known and closed under `sees` is passed through the network once.
        """
        if scene.video is None:
            raise ValueError("there is no video in the scene to imagine")
        video = scene.video
        blank = sorted(set(video.roles) - {"context"})
        known = closed_part({"text", "context"}, self.sees, {"text", *video.roles})
        open_roles = [role for role in set(video.roles) if role not in known]
        cache: KVCache | None = None
        if "context" in known:
            cache = remember(model, scene, known)
            video = video.only(*open_roles)
        x = draw(tuple(video.only(*blank).z.shape), video.z, rng)
        schedule = schedules["video"]
        grid = schedule.grid()
        for sigma, lower in pairwise(grid):
            noisy = video.at(sigma, *blank).put(x, *blank)
            velocity = model(scene.with_(video=noisy, action=None), cache=cache).video
            assert velocity is not None
            x = schedule.step(x, velocity[:, :, video.span(*blank)], sigma, lower)
        return scene.video.put(x, *blank).at(0.0, *blank)


def remember(model: Model, scene: Scene, roles: Collection[str]) -> KVCache:
    """One pass over the frames of `roles` alone, for their keys and values."""
    if scene.video is None:
        raise ValueError("there is no video in the scene to remember")
    seen = scene.with_(video=scene.video.only(*roles), action=None)
    cache = model(seen, keep=tuple(sorted(roles))).cache
    assert cache is not None
    return cache
