"""Training losses: velocity errors of each modality, weighted, and masked where data is padding.

Each part's loss is the mean over samples of the weighted mean squared error of the real elements in
the sample (Fast-WAM, arXiv 2603.16666).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..config.spec import PolicySpec
from ..interfaces.types import DenoisingTarget, ModelInputs, ModelOutput, NoisyVectors
from . import preprocessing
from .frame_order import frame_validity
from .observation import Batch
from .prefix_training import learned_actions

if TYPE_CHECKING:
    from .policy import Policy


def modality_loss(
    policy: Policy,
    part: str,
    target: DenoisingTarget,
    noisy: ModelInputs,
    velocity: ModelOutput,
    batch: Batch,
) -> Tensor:
    """Loss of one modality: the predicted `velocity` of the noisy inputs against its target."""
    spec = policy.spec
    if part == "video":
        apart = noisy.future is not None
        found = velocity.future if apart else velocity.video
        assert found is not None
        whole = not apart or spec.paradigm.targets_see_downscaled  # the clip has observed frames
        offset = -spec.leading_frames if whole else spec.latent_frames[0]
        valid = frame_mask(spec, batch, target, offset)
        return video_loss(found, target, valid)
    vectors = noisy.noisy(part)
    steps = spec.steps if part == "action" else 1
    shape = (len(batch.actions), steps, spec.sizes.token_dim(part))
    real = element_mask(spec, part, batch, shape).to(policy.device)
    if part == "action" and spec.lead_steps:
        real = torch.cat([torch.ones_like(real[:, : spec.lead_steps]), real], 1)
    real = preprocessing.to_latent(policy, part, real)
    if part == "action":
        real = learned_actions(noisy.prefix, target.places, real)
    found = velocity.take(part, noisy)
    return vector_loss(found, target, real, vectors if spec.action_head.is_regression else None)


def video_loss(predicted: Tensor, target: DenoisingTarget, valid: Tensor | None) -> Tensor:
    """Loss of the velocities of all frames [B, C, T, h, w] at the positions of the target.

    `valid` [B, F] is False for predicted frames that are padding.
    """
    velocity = predicted[:, :, list(target.places)].float()
    error = (velocity - target.velocity).square().mean((1, 3, 4)) * target.weight  # [B, F]
    if valid is None:
        return error.mean()
    real = valid.to(error)
    return ((error * real).sum(1) / real.sum(1).clamp(min=1)).mean()


def vector_loss(
    predicted: Tensor, target: DenoisingTarget, real: Tensor, noisy: NoisyVectors | None = None
) -> Tensor:
    """Loss of velocities [B, N, A]; `real` [B, N, A] is 0 where an element is padding.

    With `noisy`, the vectors themselves are compared and not their velocities: at level sigma the
    error of the data is sigma times that of the velocity.
    """
    if target.places:
        predicted = predicted[:, list(target.places)]
    error = predicted.float() - target.velocity
    if noisy is not None:
        levels = noisy.sigma[..., None]
        places = list(target.places) if target.places and levels.shape[1] > 1 else slice(None)
        error = error * levels[:, places]
    weight = target.weight if target.weight.ndim == 2 else target.weight[:, None]
    if noisy is not None:
        weight = (weight > 0).to(weight)
    sample = (error.square() * real * weight[..., None]).sum((1, 2))
    return (sample / real.sum((1, 2)).clamp(min=1)).mean()


def element_mask(spec: PolicySpec, part: str, batch: Batch, shape: tuple[int, ...]) -> Tensor:
    """Mask [B, N, A] of a modality: 1 for data, 0 for padding and unknown values."""
    real = torch.ones(shape)
    if part == "action":
        if (first := spec.action_head.loss_horizon) is not None:
            place = torch.arange(shape[1]) % spec.actions.chunk_size
            real = real * (place < first).float()[:, None]
        if batch.step_valid is not None:
            real = real * batch.step_valid.float()[..., None].cpu()
        if batch.dim_valid is not None:
            real = real * batch.dim_valid.float().reshape(-1, 1, shape[-1]).cpu()
    if part == "value" and batch.value is not None:
        real = real * batch.value.isfinite().float().reshape(-1, 1, 1).cpu()
    return real


def frame_mask(
    spec: PolicySpec, batch: Batch, target: DenoisingTarget, offset: int
) -> Tensor | None:
    """Mask [B, F] of the predicted frames: padding only if all images of a latent are.

    `offset` is how many frames of the sample come before the frames that `target` counts; below 0,
    how many frames are counted that no image of the sample is in.
    """
    if batch.frame_valid is None:
        return None
    latent = frame_validity(spec, batch.frame_valid)
    return latent[:, [place + offset for place in target.frames or target.places]]
