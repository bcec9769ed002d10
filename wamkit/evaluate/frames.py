"""Frames as a policy sees them: views of a canvas, observed and to come, and when they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor

from ..config.spec import PolicySpec
from ..errors import WamkitError
from ..policy.observation import Observation
from ..policy.policy import Policy
from ..policy.preprocessing import canvas_of, downscale

Views = Mapping[str, Tensor]
"""view -> frames [B, 3, T, height, width] in [-1, 1], of the size of imagined ones."""


def horizons(spec: PolicySpec) -> tuple[int, ...]:
    """Actions from the last observed frame to each imagined one."""
    return spec.video.moments(spec.video.num_frames)[spec.video.num_observed :]


def seconds_ahead(spec: PolicySpec) -> tuple[float, ...]:
    """Seconds from the last observed frame to each imagined one."""
    return tuple(steps / spec.actions.control_hz for steps in horizons(spec))


def expect_imagining(spec: PolicySpec) -> None:
    """Raise WamkitError if a policy imagines no frames."""
    if not spec.latent_frames[1] or not spec.backbone.traits.imagines:
        raise WamkitError(
            "this policy imagines no frames, so that there is nothing to measure",
            "evaluate a policy with video.num_frames above video.num_observed and a backbone that "
            "generates video",
        )


def real_views(policy: Policy, observation: Observation) -> dict[str, Tensor]:
    """All frames of an observation, prepared as those that the policy observes."""
    canvas = canvas_of(policy, observation)
    times = policy.spec.video.target_downscale
    canvas = downscale(canvas, times) if times > 1 else canvas
    return {name: clip.cpu() for name, clip in policy.cameras.split(canvas).items()}


def observed_part(observation: Observation, count: int) -> Observation:
    """The observation with the first `count` images of every camera alone."""
    images = {name: clip[:, :count] for name, clip in observation.images.items()}
    return replace(observation, images=images)
