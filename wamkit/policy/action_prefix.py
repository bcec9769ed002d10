"""The prefix that a caller gives an action chunk, in physical units: real-time chunking.

now                                        chunk before:  a a a a a a a a
|                                             executed: [a a a]
v                                  prefix, what is left:       [a a a a a]
delay: executed while the next chunk is computed:               [a a]
next chunk:                  a a n n n n n n
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoints.finite import fault
from ..config.prefix import (
    JACOBIANS,
    MODES,
    SCHEDULES,
    act_refusal,
    guidance_weight,
    max_guidance,
    soft_mask,
)
from ..errors import WamkitError, did_you_mean
from ..interfaces.types import ModelInputs, Prefix
from . import preprocessing
from .observation import ActionChunk, Observation
from .run_mode import captures

if TYPE_CHECKING:
    from .policy import Policy


@dataclass(frozen=True)
class ActionPrefix:
    """Actions that the next chunk begins with, as left over of the chunk before.

    `values` [B, n, A] or [n, A] are in physical units, as `ActionChunk.values`: the first one is
    the action of the moment that is observed. The first `delay` of them (d; by default all) are
    executed while the next chunk is computed, and the chunk that comes begins with exactly these.
    The others are a plan: `guided` holds the chunk to them softly, the other modes ignore them.

    `mode`: `trained` passes the first d actions as clean tokens, for policies that learned it
    (`actions.max_delay`); `guided` corrects the velocity, for any policy of three steps or more;
    `freeze` only overwrites the first d actions while sampling.
    `schedule`: how the hold fades over the plan: "exponential", "linear", "ones" or "zeros".
    `max_guidance`: the largest weight of a correction (beta); by default the largest up to 5
    with which no step moves the chunk by more than its error: min(5, steps) where steps are equal.
    `jacobian`: "identity", or "exact" for the vector-Jacobian product through the network, which
    costs a backward pass in every step.
    `relative_to`: state [B, P] that values of relative groups are differences to, where they are no
    targets, as of `ActionChunk`. They are anchored to the observed state anew.

    Raises WamkitError if a value is not finite or no such mode is known.
    """

    values: Any
    delay: int | None = None
    mode: str = "guided"
    schedule: str = "exponential"
    max_guidance: float | None = None
    jacobian: str = "identity"
    relative_to: Any = None

    def __post_init__(self) -> None:
        values = torch.as_tensor(self.values).float()
        if values.ndim not in (2, 3):
            raise WamkitError(
                f"a prefix has shape {list(values.shape)}", "pass actions [n, A] or [B, n, A]"
            )
        values = values[None] if values.ndim == 2 else values
        if (bad := fault(values)) is not None:
            raise WamkitError(
                f"the prefix is not finite: {bad} (sample, step, number)",
                "pass the actions that are left of the chunk before, in physical units",
            )
        for name, known in (("mode", MODES), ("schedule", SCHEDULES), ("jacobian", JACOBIANS)):
            if (given := getattr(self, name)) not in known:
                hint = did_you_mean(str(given), list(known), f"known are {', '.join(known)}")
                raise WamkitError(f"no {name} of a prefix is called {given!r}", hint)
        delay = values.shape[1] if self.delay is None else self.delay
        if not isinstance(delay, int) or not 0 <= delay <= values.shape[1]:
            raise WamkitError(
                f"a delay of {delay!r} steps, and a prefix of {values.shape[1]} actions",
                f"give the actions of the whole delay, or a delay from 0 to {values.shape[1]}",
            )
        anchor = self.relative_to
        if anchor is not None:
            anchor = torch.as_tensor(anchor).reshape(-1, torch.as_tensor(anchor).shape[-1])
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "delay", delay)
        object.__setattr__(self, "relative_to", anchor)

    @property
    def is_empty(self) -> bool:
        """Whether it holds nothing of a chunk."""
        given = self.values.shape[1] if self.mode == "guided" else self.delay
        return not given or (not self.delay and self.schedule == "zeros")


def add_prefix(
    policy: Policy, inputs: ModelInputs, prefix: ActionPrefix | None, observation: Observation
) -> ModelInputs:
    """The inputs of a chunk that begins with `prefix`, anchored to the observed state.

    Raises WamkitError if the policy cannot take it so, or it does not fit the observation.
    """
    if prefix is None or prefix.is_empty:
        return inputs
    spec, delay, count = policy.spec, int(prefix.delay or 0), prefix.values.shape[1]
    if (refusal := act_refusal(spec, prefix.mode, delay)) is not None:
        raise WamkitError(*refusal)
    _expect_stable(policy, prefix)
    values, known = _full_values(policy, prefix, observation)
    state = preprocessing.physical_state(policy, observation)
    state = None if state is None else state.cpu()
    size, device = spec.actions.chunk_size, policy.device
    x = values.new_zeros(len(values), size, values.shape[2])
    x[:, :count] = policy.actions.encode_executed(values, state)
    soft = prefix.mode == "guided"
    rule = soft_mask(size, delay, count if soft else delay, prefix.schedule if soft else "ones")
    weight = torch.tensor(rule)[None, :, None] * known  # [1, N, A]
    latent = preprocessing.to_latent(policy, "action", x.to(device))
    tokens = latent.shape[1]
    if tokens == size and bool(known.all()):
        weight = weight[..., :1].expand(len(x), -1, -1).to(device)
    else:
        weight = preprocessing.to_latent(policy, "action", weight.expand_as(x).to(device))
    clean = torch.zeros(len(x), tokens, dtype=torch.bool)
    if tokens == size:
        clean[:, :delay] = True
    default = max_guidance(policy.schedules["action"].strides)
    found = Prefix(
        latent.float(),
        weight.float().contiguous(),
        clean.to(device),
        prefix.mode,
        default if prefix.max_guidance is None else float(prefix.max_guidance),
        prefix.jacobian,
    )
    return inputs.with_(prefix=found)


def _full_values(
    policy: Policy, prefix: ActionPrefix, observation: Observation
) -> tuple[Tensor, Tensor]:
    """All values of the actions [B, n, A], and which of them the prefix knows [A]."""
    config, values = policy.spec.actions, prefix.values.cpu()
    size, executed = config.size, list(config.executed)
    batch, count, given = values.shape
    if batch != observation.batch or given not in (size, len(executed)):
        raise WamkitError(
            f"a prefix {list(values.shape)} for {observation.batch} samples of "
            f"{len(executed)} values",
            f"pass what is left of the chunk before, [{observation.batch}, n, {len(executed)}]",
        )
    if count > config.chunk_size:
        raise WamkitError(
            f"a prefix of {count} actions, and a chunk has {config.chunk_size}",
            "leave out the actions that were executed already",
        )
    known = torch.ones(size)
    if given != size:
        if prefix.mode == "trained":
            raise WamkitError(
                f"a prefix of {given} values, and this policy predicts {size} with each action",
                'choose mode "guided", which holds only what is known',
            )
        known = torch.zeros(size)
        known[executed] = 1
        values = values.new_zeros(batch, count, size).index_copy_(2, torch.tensor(executed), values)
    if prefix.relative_to is not None:
        values = policy.actions.absolute(values, prefix.relative_to.to(values))
    return values, known


def _expect_stable(policy: Policy, prefix: ActionPrefix) -> None:
    """Raise WamkitError if the correction would not settle, or cannot be computed."""
    steps, most = policy.schedules["action"].strides, prefix.max_guidance
    if prefix.mode != "guided":
        return
    if most is not None and not 0 < most < (limit := max_guidance(steps, share=2, most=inf)):
        moved = max(guidance_weight(s, most) * h for s, h in steps)
        raise WamkitError(
            f"max_guidance = {most} in {policy.spec.schedules.action.steps} steps: one step moves "
            f"the chunk by {moved:.3g} of its error, and from 2 on that grows",
            f"leave it out, which is {max_guidance(steps):.3g}, or choose more than 0 and less "
            f"than {limit:.3g}",
        )
    if prefix.jacobian == "exact" and captures(policy.mode):
        raise WamkitError(
            "the exact Jacobian needs a backward pass in every step, which a CUDA graph of acting "
            "does not hold",
            'choose jacobian = "identity", or mode "compile" or "eager"',
        )


def keep_prefix(
    policy: Policy, chunk: ActionChunk, prefix: ActionPrefix | None, observation: Observation
) -> ActionChunk:
    """The chunk with the actions of the delay exactly as they are executed."""
    if prefix is None or not prefix.delay:
        return chunk
    full, _ = _full_values(policy, prefix, observation)
    held = full[:, : prefix.delay, list(policy.spec.actions.executed)]
    values = chunk.values.clone()
    values[:, : prefix.delay] = held.to(values)
    return replace(chunk, values=values)
