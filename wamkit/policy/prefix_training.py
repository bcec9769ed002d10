"""Training samples whose chunks begin with a clean prefix (arXiv 2512.05964).

d in 0 .. max_delay, drawn for each sample      c c n n n n n n      c: clean, level 0, no loss
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ..config.spec import PolicySpec
from ..engine.device import to_device
from ..engine.noise_schedule import draw_uniform
from ..interfaces.types import ModelInputs, NoisyVectors, Prefix, base


def with_clean_prefix(
    spec: PolicySpec, inputs: ModelInputs, noisy: ModelInputs, rng: torch.Generator
) -> ModelInputs:
    """The noisy inputs, with the first actions of every chunk of a sample as in the clean ones.

    Each sample has a delay of its own, and a part of them, 1 - `actions.delay_share`, has none.
    Nothing is drawn or changed without `actions.max_delay`.
    """
    most, action = spec.actions.max_delay, noisy.action
    if not most or action is None or inputs.action is None:
        return noisy
    whole, batch, count = inputs.action.x, *action.x.shape[:2]
    device = action.x.device
    share = spec.actions.delay_share
    drawn = (draw_uniform((batch,), rng) - (1 - share)) / share  # below 0: no delay
    delay = to_device((drawn * (most + 1)).long().clamp(0, most), device)
    places = torch.tensor(_places(action, spec), device=device)
    clean = places < delay[:, None]  # [B, N]
    clean[:, whole.shape[1] :] = False  # copies, which are clean already
    x = torch.cat([whole, action.x[:, whole.shape[1] :]], 1).to(action.x)
    x = torch.where(clean[..., None], x, action.x)
    level = action.sigma.expand(batch, count).masked_fill(clean, 0.0)
    states = noisy.states
    if states is not None and states.follows_action:
        own = states.group(action).level
        assert isinstance(own, Tensor)
        states = replace(states, level=own)
    return noisy.with_(
        action=NoisyVectors(x, level, action.roles, action.times),
        states=states,
        prefix=Prefix(x, clean[..., None].float(), clean),
    )


def _places(action: NoisyVectors, spec: PolicySpec) -> list[int]:
    """The place of every action in its chunk; below 0 before the episode."""
    counts: dict[str, int] = {}
    found = []
    for role in action.roles or ("action",) * action.x.shape[1]:
        before = -spec.lead_steps if not counts else 0  # of the first chunk
        counts.setdefault(role, before)
        found.append(counts[role] if base(role) == "action" else spec.steps)
        counts[role] += 1
    return found


def learned_actions(prefix: Prefix | None, places: tuple[int, ...], real: Tensor) -> Tensor:
    """The mask of real elements [B, N, A] without those of clean prefixes.

    `places` are those of the actions that are predicted; () for all.
    """
    if prefix is None:
        return real
    clean = prefix.clean[:, list(places)] if places else prefix.clean
    return real * ~clean[..., None]
