"""One prefill of the observation, then only the action is denoised; trained beside the video."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from wamkit.interfaces.paradigm import Model, Paradigm, ScheduleMap, remember
from wamkit.schedule import draw
from wamkit.types import Noisy, Scene, Target
from wamkit.visibility import Visibility


class SinglePassParadigm(Paradigm):
    """Fast-WAM's schedule over any backbone and head."""

    def __init__(self, sees: Visibility) -> None:
        self.sees = sees

    def act(
        self, model: Model, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> Tensor:
        """Noise to normalized actions [B, N, A]: one pass over the context, then action steps."""
        assert scene.video is not None and scene.action is not None
        x = draw(tuple(scene.action.x.shape), scene.action.x, rng)
        seen = remember(model, scene, ("text", "context"))
        schedule = schedules["action"]
        grid = schedule.grid()
        levels = torch.tensor(grid, device=x.device).expand(x.shape[0], -1)  # [B, steps + 1]
        for i, (sigma, lower) in enumerate(pairwise(grid)):
            noisy = scene.with_(video=None, action=Noisy(x, levels[:, i]))
            velocity = model(noisy, cache=seen).action
            assert velocity is not None
            x = schedule.step(x, velocity, sigma, lower)
        return x

    def corrupt(
        self, scene: Scene, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[Scene, Target]:
        """Future and action at independent noise levels; the context stays clean."""
        assert scene.video is not None and scene.action is not None
        video, action = scene.video, scene.action
        batch = video.z.shape[0]

        flow = schedules["action"]
        noise = draw(tuple(action.x.shape), action.x, rng)
        sigma = flow.sample((batch,), action.x, rng)
        noisy = Noisy(flow.add(action.x, noise, sigma), sigma)
        target = Target(flow.velocity(action.x, noise), flow.weight(sigma))
        future = video.where("target")
        if not future:
            return scene.with_(action=noisy), target

        flow = schedules["video"]
        z = video.z[:, :, future]
        noise = draw(tuple(z.shape), z, rng)
        sigma = flow.sample((batch,), z, rng)
        clip = video.at(sigma, "target").put(flow.add(z, noise, sigma), "target")
        target = replace(
            target,
            video=flow.velocity(z, noise),
            video_weight=flow.weight(sigma)[:, None].expand(-1, len(future)),
            frames=tuple(future),
        )
        return scene.with_(video=clip, action=noisy), target
