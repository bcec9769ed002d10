"""The future that a policy imagines: by itself, or as it follows from given actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoints.finite import fault
from ..engine.device import to_device
from ..errors import WamkitError
from . import preprocessing
from .blame import expect_imagined
from .observation import Imagined, Observation

if TYPE_CHECKING:
    from ..interfaces.types import Frames
    from .policy import Policy


def imagine(policy: Policy, observation: Observation, rng: torch.Generator) -> Imagined:
    """`Policy.imagine` without actions."""
    _expect_frames(policy)
    inputs = preprocessing.inference_inputs(policy, observation)
    model = policy.model_with_cfg(inputs)
    clip = policy.paradigm.imagine(model, inputs, policy.schedules, rng)
    return _imagined(policy, clip, observation)


def imagine_given(
    policy: Policy, observation: Observation, actions: Any, rng: torch.Generator
) -> Imagined:
    """`Policy.imagine` with actions."""
    _expect_frames(policy)
    if conflict := policy.spec.paradigm.conflict_with_given_actions(policy.spec):
        raise WamkitError(conflict.why, conflict.hint)
    given = _as_actions(policy, observation, actions)
    inputs = preprocessing.inference_inputs(policy, observation)
    state = preprocessing.physical_state(policy, observation)
    latent = preprocessing.to_latent(
        policy, "action", to_device(policy.actions.encode_executed(given, state), policy.device)
    )
    inputs = inputs.put("action", latent.to(inputs.take("action").dtype), 0.0)
    model = policy.model_with_cfg(inputs)
    out = policy.paradigm.predict_future(model, inputs, policy.schedules, rng)
    assert out.clip is not None
    value = next_state = None
    if "value" in out.parts:
        x = policy.action_head.from_latent("value", out.take("value"))
        value = x.float().flatten(1).mean(1).clamp(-1, 1).cpu()
    if "next_state" in out.parts:
        x = policy.action_head.from_latent("next_state", out.take("next_state"))
        next_state = policy.states.normalizer.decode(x[:, 0].float().cpu())
    return _imagined(policy, out.clip, observation, value, next_state)


def _expect_frames(policy: Policy) -> None:
    if policy.spec.latent_frames[1] == 0:
        raise WamkitError(
            "this policy imagines nothing: video.num_frames equals video.num_observed",
            "set video.num_frames above video.num_observed",
        )


def _as_actions(policy: Policy, observation: Observation, actions: Any) -> Tensor:
    """Given actions as [B, N, A]. Raises WamkitError if they are no chunk for each sample."""
    config = policy.spec.actions
    wanted = (observation.batch, config.chunk_size, config.size)
    given = torch.as_tensor(actions).float()
    given = given[None] if given.ndim == 2 and observation.batch == 1 else given
    if tuple(given.shape) != wanted:
        raise WamkitError(
            f"the given actions are {list(given.shape)}, expected {list(wanted)}: samples, "
            "actions of a chunk, values of an action",
            "give a whole chunk in physical units, as `act` returns it",
        )
    if (bad := fault(given)) is not None:
        raise WamkitError(f"the given actions are not finite: {bad}", "give finite actions")
    return given


def _imagined(
    policy: Policy,
    clip: Frames,
    observation: Observation,
    value: Tensor | None = None,
    next_state: Tensor | None = None,
) -> Imagined:
    """The clip as images."""
    images = preprocessing.decode_video(policy, clip, observation)
    expect_imagined(policy, images, observation)
    return Imagined(
        policy.cameras.merge_views(images),
        policy.spec.video.num_observed,
        policy.cameras.split(images),
        value,
        next_state,
    )
