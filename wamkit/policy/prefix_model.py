"""A model whose action chunk begins with a prefix: real-time chunking.

trained   the prefix is passed clean, at level 0 (arXiv 2512.05964)
freeze    the noisy actions stay on the straight path to the prefix; the network does not know
guided    v' = v - w J W (Y - x0): x0 = x - s v moves towards the prefix Y (arXiv 2506.07339)

Like guidance this is a function around the model: samplers and paradigms know nothing of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from ..config.prefix import guidance_weight
from ..engine.kv_cache import KVCache
from ..engine.levels import Level, Levels, PrefixLevels, expand_levels
from ..errors import WamkitError
from ..interfaces.paradigm import Model
from ..interfaces.types import ModelInputs, ModelOutput, NoisyVectors, Prefix


def with_prefix(model: Model) -> Model:
    """The model; noisy actions of inputs that have a prefix are held to it."""

    def run(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        prefix, action = inputs.prefix, inputs.action
        if prefix is None or action is None or _is_clean(action):
            return model(inputs, cache=cache, keep=keep)
        if prefix.mode == "guided":
            return _guided(model, inputs, action, prefix, cache, keep)
        held = prefix.weight > 0
        given = inputs
        if prefix.mode == "trained":
            held = prefix.clean[..., None]
            x = torch.where(held, prefix.x, action.x)
            level = _partly_clean(action.level, prefix.clean)
            given = inputs.with_(action=replace(action, x=x, level=level))
        found = model(given, cache=cache, keep=keep)
        if found.action is None:
            return found
        # The velocity of the straight path to the prefix, on which every solver stays.
        line = (action.x - prefix.x) / _sigma(action)
        return replace(found, action=torch.where(held, line, found.action))

    return run


def _guided(
    model: Model,
    inputs: ModelInputs,
    action: NoisyVectors,
    prefix: Prefix,
    cache: KVCache | None,
    keep: Collection[str],
) -> ModelOutput:
    """The output with its velocity corrected towards the prefix."""
    sigma = _sigma(action)
    weight = guidance_weight(sigma, prefix.max_guidance)
    if prefix.jacobian == "identity":
        found = model(inputs, cache=cache, keep=keep)
        if found.action is None:
            return found
        error = prefix.weight * (prefix.x - (action.x - sigma * found.action))
        return replace(found, action=found.action - weight * error)
    if torch.is_inference_mode_enabled():
        raise WamkitError(
            "the exact Jacobian needs gradients, and inference mode records none",
            'call act under torch.no_grad, or choose jacobian = "identity"',
        )
    with torch.enable_grad():
        x = action.x.detach().requires_grad_()
        found = model(inputs.with_(action=replace(action, x=x)), cache=cache, keep=keep)
        if found.action is None:
            return found
        clean = x - sigma * found.action
        error = (prefix.weight * (prefix.x - clean)).detach()
        (pulled,) = torch.autograd.grad(clean, x, error)
        guided = found.action.detach() - weight * pulled
    others = {
        name: v.detach()
        for name in ("video", "future", "next_state", "value")
        if (v := getattr(found, name)) is not None
    }
    return replace(found, action=guided, **others)


def _is_clean(action: NoisyVectors) -> bool:
    """Whether the actions are known, and condition what is denoised."""
    levels = expand_levels(action.level, 1)
    return isinstance(levels, tuple) and not any(level.sigma for level in levels)


def _sigma(action: NoisyVectors) -> float | Tensor:
    """The noise level of the actions: a number, or [B, N or 1, 1]; tiny in place of 0."""
    if isinstance(action.level, Level):
        return action.level.sigma
    return action.sigma[..., None].clamp(min=1e-6)


def _partly_clean(level: Level | Levels | PrefixLevels, clean: Tensor) -> Levels | PrefixLevels:
    """Noise levels with 0 for the tokens that are `clean` [B, N]."""
    if isinstance(level, PrefixLevels):
        return PrefixLevels(level.levels, level.clean | clean)
    each = expand_levels(level, clean.shape[1])
    if isinstance(each, Tensor):
        return each.masked_fill(clean, 0.0)
    return PrefixLevels(each, clean)
