"""Observed frames that are frames of the first block, and the actions of zero that led to them.

    block 0    observed | new ... new    0 ... 0 | actions
    block k    new ............... new   actions ........

A block has as many frames, and as many actions, as every other one. In time they follow each other
without a gap: block k begins at frame k * (frames of a block).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch

from wamkit.interfaces.paradigm import Model
from wamkit.interfaces.types import (
    CLEAN,
    Frames,
    KVCache,
    Level,
    ModelInputs,
    ModelOutput,
    expand_levels,
    join_levels,
)


def in_one(inputs: ModelInputs) -> ModelInputs:
    """A training sample whose observed frames are targets, as all others.

    Its actions begin with those of zero, which lead to the observed frames at negative times.
    """
    clip, action = inputs.clip, inputs.noisy("action")
    assert clip is not None
    lead = action.x.shape[1] * len(clip.where("context")) // len(clip.roles)
    places = tuple(place - lead for place in action.places())
    return inputs.with_(video=clip.named(context="target"), action=replace(action, times=places))


def lead_steps(inputs: ModelInputs) -> int:
    """Actions of a block that led to the observed frames of the inputs."""
    clip = inputs.clip
    assert clip is not None
    observed, new = len(clip.where("context")), len(clip.where(*clip.targets))
    return inputs.noisy("action").x.shape[1] * observed // new


def place(block_inputs: ModelInputs, observed: Frames, block: int) -> ModelInputs:
    """Move a block to where it begins if block 0 has the observed frames among its own.

    Block 0 keeps as many frames and actions as are left; it begins with the observed frames.

    Args:
        block_inputs: Frames and actions of the block behind the observed ones.
        observed: The observed frames.
        block: Its number.
    """
    clip, action = block_inputs.clip, block_inputs.noisy("action")
    assert clip is not None
    frames = len(observed.roles)
    steps = action.x.shape[1] * frames // len(clip.roles)
    if block:
        clip = replace(clip, times=tuple(time - frames for time in clip.times))
        action = replace(action, times=tuple(time - steps for time in action.places()))
        return block_inputs.with_(video=clip, action=action)
    count, left = len(clip.roles) - frames, action.x.shape[1] - steps
    role = clip.roles[0]
    new = replace(clip, roles=(role,) * count + ("left out",) * frames).only(role)
    action = replace(
        action, x=action.x[:, :left], roles=action.roles[:left], times=action.places()[:left]
    )
    return block_inputs.with_(video=observed.then(new), action=action)


def with_lead(model: Model, begin: ModelInputs) -> Model:
    """The model with actions of zero, without noise, before those of the first block.

    Args:
        model: Of a pass.
        begin: Inputs of the paradigm, with the observed frames and the actions of a whole block.
    """
    steps = lead_steps(begin)

    def run(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        action = inputs.action
        if action is None or action.places()[0] != 0:
            return model(inputs, cache=cache, keep=keep)
        x, level = action.x, action.level
        if not isinstance(level, Level) or level.sigma:
            given = (CLEAN,) * steps, expand_levels(level, x.shape[1])
            level = join_levels(given, len(x), x.device)
        whole = replace(
            action,
            x=torch.cat([x.new_zeros(len(x), steps, x.shape[2]), x], 1),
            level=level,
            roles=action.roles[:1] * steps + action.roles,
            times=tuple(float(k - steps) for k in range(steps)) + action.places(),
        )
        prefix = None if inputs.prefix is None else inputs.prefix.delayed(steps)
        found = model(inputs.with_(action=whole, prefix=prefix), cache=cache, keep=keep)
        if found.action is None:
            return found
        return replace(found, action=found.action[:, steps:])

    return run
