"""The video is denoised, passed once more for its keys, and the action read off them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from wamkit.engine.layers import to_device
from wamkit.engine.noise_schedule import draw_noise, draw_uniform
from wamkit.interfaces.paradigm import (
    Model,
    Paradigm,
    ScheduleMap,
    add_noise,
    denoise,
    init_sampler,
    prefill,
)
from wamkit.interfaces.types import DenoisingTargets, Frames, ModelInputs, ParadigmOutput

if TYPE_CHECKING:
    from . import Idm


class IdmParadigm(Paradigm):
    """Fast-WAM-IDM over any backbone and head, with as much imagining as the caller wants.

    The frames that the action sees are a copy, in roles of its own, because the noisy frames that
    are learned must not be seen. What is observed needs no copy: both halves hold the same clean
    frames, which look at nothing but themselves.
    """

    act_options: Mapping[str, str] = {
        "stop_sigma": "noise level at which imagining stops, from 0 (a finished video) to 1 (none "
        'of it), or "first_frame" where training left the video out at times'
    }

    def __init__(self, config: Idm) -> None:
        self.config = config
        self.sees = config.sees

    def act(
        self,
        model: Model,
        inputs: ModelInputs,
        schedules: ScheduleMap,
        rng: torch.Generator,
        *,
        stop_sigma: float | str | None = None,
        **act_options: Any,
    ) -> ParadigmOutput:
        """The video down to level `stop_sigma`, one pass over it, then the action against its keys.

        The same seed draws the same noise for the action, whatever `stop_sigma` is. Raises
        WamkitError if training has not prepared for `stop_sigma`.
        """
        stop = self.config.stop_sigma if stop_sigma is None else self.config.expect(stop_sigma)
        action = init_sampler("action", inputs, schedules, rng)
        if stop == "first_frame":
            cache, rest = prefill(model, inputs.without("video"), self.sees)
            return ParadigmOutput(denoise(model, rest, {"action": action}, cache).take("action"))
        video = init_sampler("video", inputs, schedules, rng, until=float(stop))
        cache, rest = prefill(model, inputs, self.sees)
        seen = denoise(model, rest.without("action"), {"video": video}, cache)
        with_copy = seen.with_(**{_place(seen): _copy(seen)})
        kept = model(with_copy, cache=cache, keep=("target'",)).cache
        assert cache is not None and kept is not None
        rest = rest.with_(video=None, future=None)
        done = denoise(model, rest, {"action": action}, cache | kept)
        clip = inputs.put("video", video.x, video.sigma).clip
        return ParadigmOutput(done.take("action"), clip)

    def add_noise(
        self, inputs: ModelInputs, schedules: ScheduleMap, rng: torch.Generator
    ) -> tuple[ModelInputs, DenoisingTargets]:
        """Video and action noised as ever, and behind the video the copy that the action sees.

        Whether the copy is left out is drawn once for the whole batch: then no token has to be
        hidden from some samples only, the pass is shorter, and the mean of the gradient over steps
        is that of a draw for each sample.
        """
        noisy, target = add_noise(inputs, schedules, rng)
        left_out = draw_uniform((), rng) < self.config.drop_future_prob
        if left_out:
            return noisy, target
        flow, x = schedules["video"], inputs.take("video")
        share = draw_uniform((len(x),), rng) < self.config.context_noise_prob
        level = flow.sample((len(x),), x, rng) * to_device(share, x.device)
        noised = flow.add(x, draw_noise(tuple(x.shape), x, rng), level)
        copy = _copy(inputs.put("video", noised, level))
        assert noisy.clip is not None
        return noisy.with_(**{_place(noisy): noisy.clip.then(copy)}), target


def _place(inputs: ModelInputs) -> str:
    """Which frames of the inputs the targets are among."""
    return "video" if inputs.future is None else "future"


def _copy(inputs: ModelInputs) -> Frames:
    """The target frames as the copy that the action sees."""
    assert inputs.clip is not None
    return inputs.clip.only("target").named(target="target'")
