"""Batches of LeRobot as observations and training samples of wamkit; without LeRobot.

LeRobot has images as float in [0, 1], made of 8 bits, and values in physical units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError
from wamkit.policy.observation import Batch, Observation

from .features import ACTION, STATE, TASK, Offsets, takes_states


def to_pixels(images: Tensor) -> Tensor:
    """Images [..., 3, height, width] of float in [0, 1] as uint8, from which they were made."""
    if images.dtype == torch.uint8:
        return images
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def prompts_of(batch: Mapping[str, Any], size: int, instruction: str | None) -> list[str]:
    """The instruction of each of `size` samples.

    Raises WamkitError if there is none in `task`, and none was given.
    """
    found = batch.get(TASK) or ""
    tasks = [found] * size if isinstance(found, str) else [str(task) for task in found]
    tasks = tasks * size if len(tasks) == 1 else tasks
    named = [task if task.strip() else instruction or "" for task in tasks]
    if len(named) != size or not all(named):
        raise WamkitError(
            f"{sum(map(bool, named))} instructions for {size} samples: this environment names no "
            "task",
            '--policy.instruction="push the T onto the goal"',
        )
    return named


def to_observation(
    spec: PolicySpec,
    keys: Mapping[str, str],
    looks: Sequence[Mapping[str, Any]],
    instruction: str | None = None,
) -> Observation:
    """What a policy observes, from batches of one moment each.

    Args:
        spec: Of the policy.
        keys: View -> feature.
        looks: Batches at T moments, oldest first: images [B, 3, height, width], state [B, P].
        instruction: For samples without a task.
    """
    images = {
        view: torch.stack([to_pixels(look[key]) for look in looks], 1) for view, key in keys.items()
    }
    now = looks[-1]
    state = now[STATE].clone() if spec.state.size else None
    size = next(iter(images.values())).shape[0]
    return Observation(images, prompts_of(now, size, instruction), state)


def to_batch(
    spec: PolicySpec,
    keys: Mapping[str, str],
    batch: Mapping[str, Any],
    frames: Offsets,
    instruction: str | None = None,
) -> Batch:
    """Training samples, from a batch of a data set with the frames of `features.offsets`.

    `batch` has images [B, T, 3, height, width], state [B, T, P], action [B, N, A], and
    `KEY_is_pad` [B, T] or [B, N]; T may be missing where it is 1. How well it goes is not in it
    (`Batch.value` is NaN).
    """
    place = {offset: row for row, offset in enumerate(frames.observation)}
    moments = [place[moment] for moment in spec.video.moments(spec.num_images)]
    images = {view: to_pixels(_over_time(batch[key], 5)[:, moments]) for view, key in keys.items()}
    size = next(iter(images.values())).shape[0]
    inside = _inside(batch, next(iter(keys.values())))
    states = _over_time(batch[STATE], 3) if spec.state.size else None
    step_valid = _inside(batch, ACTION)
    actions = _actions(spec, batch, states, place)
    if step_valid is not None:
        actions = torch.where(_delta(spec).to(actions.device) & ~step_valid[..., None], 0, actions)
    state = after = several = None
    if states is not None:
        state = states[:, place[0]]
        after = states[:, place[spec.steps]] if spec.steps in place else None
        if spec.paradigm.states_per_sample > 1:
            starts = range(0, spec.steps, spec.actions.chunk_size)
            several = states[:, [place[start] for start in starts]]
    return Batch(
        Observation(images, prompts_of(batch, size, instruction), state),
        actions,
        step_valid=step_valid,
        frame_valid=None if inside is None else inside[:, moments],
        next_state=after,
        value=torch.full((size,), float("nan")) if "value" in spec.predicts else None,
        states=several,
    )


def _over_time(values: Tensor, axes: int) -> Tensor:
    """Values with an axis of time after that of the batch."""
    return values if values.ndim == axes else values.unsqueeze(1)


def _inside(batch: Mapping[str, Any], key: str) -> Tensor | None:
    """Which frames of a feature are in the episode, [B, T]; None if that is not known."""
    padding = batch.get(f"{key}_is_pad")
    if padding is None:
        return None
    return ~_over_time(padding, 2).bool()


def _actions(
    spec: PolicySpec, batch: Mapping[str, Any], states: Tensor | None, place: Mapping[int, int]
) -> Tensor:
    """Actions [B, N, A], with values of the state where the policy has them."""
    actions = _over_time(batch[ACTION], 3)
    if not takes_states(spec):
        return actions
    assert states is not None
    felt = states[:, [place[step] for step in range(spec.steps)]]
    parts = {"action": actions, "state": felt}
    return torch.stack([parts[kind][..., i] for kind, i in spec.actions.sources], -1)


def _delta(spec: PolicySpec) -> Tensor:
    """Which values of an action are differences, [A]: they are 0 after the end of an episode."""
    return torch.tensor([g.kind == "delta" for g in spec.actions.groups for _ in range(g.size)])
