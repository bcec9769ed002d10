"""The threshold of disagreement that keeps a mean budget, found on observations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import ceil
from typing import TYPE_CHECKING

import torch

from wamkit.config.parts import Stage
from wamkit.config.programs import program_of
from wamkit.errors import WamkitError
from wamkit.interfaces.batched_proposals import SharedPrefill
from wamkit.policy import preprocessing
from wamkit.policy.policy import generator

from . import is_shared_stage

if TYPE_CHECKING:
    from wamkit.config.spec import PolicySpec
    from wamkit.policy.observation import Observation
    from wamkit.policy.policy import Policy

    from .paradigm import AdaptiveParadigm


@torch.no_grad()
def calibrate_threshold(
    paradigm: AdaptiveParadigm,
    policy: Policy,
    observations: Iterable[Observation],
    budget: float,
    seed: int,
) -> dict[str, float]:
    """The threshold at which chunks cost on average `budget` times one that acts fast at once.

    Work is counted in tokens that pass the network, from the programs of both ways: with r for the
    prefill of the observation, f and s for all stages of the fast and the slow way, K proposals and
    a share p that deliberates it is r + K (f - r) + p (s - r). The share follows from the budget,
    the threshold from the disagreements found on `observations`. Says `threshold`, `share` (of the
    observations, that deliberates), `passes` (mean number of passes of a chunk, a batch of
    proposals counted as one) and `work` (mean, relative to acting fast).

    Raises WamkitError if the proposals alone cost more, or there are no observations.
    """
    spec, config = policy.spec, paradigm.config
    fast, slow = (program_of(spec, config.way(kind)) for kind in ("fast", "slow"))
    read, direct = _work(spec, [s for s in fast if is_shared_stage(s)]), _work(spec, fast)
    asking = read + config.proposals * (direct - read)
    thinking = _work(spec, slow) - _work(spec, [s for s in slow if is_shared_stage(s)])
    if asking > budget * direct:
        least = ceil(100 * asking / direct) / 100
        raise WamkitError(
            f"{config.proposals} fast proposals alone cost {asking / direct:.2f} times one, the "
            f"budget is {budget:g}",
            f"allow at least {least:g}, or set paradigm.proposals lower",
        )
    found = []
    for number, observation in enumerate(observations):
        inputs = preprocessing.inference_inputs(policy, observation)
        model = SharedPrefill(policy.model_with_cfg(inputs), inputs)
        rng = generator(seed + number)
        found.append(paradigm.disagreement_of(model, inputs, policy.schedules, rng)[1].cpu())
    if not found:
        raise WamkitError("no observations to calibrate with", "pass some that are typical")
    apart = torch.cat(found).sort(descending=True).values
    allowed = min(1.0, (budget * direct - asking) / thinking)
    count = int(allowed * len(apart) + 1e-6)
    threshold = float(apart[count]) if count < len(apart) else 0.0
    share = float((apart > threshold).float().mean())
    if threshold == 0:
        share, asking = 1.0, read
    return {
        "threshold": threshold,
        "share": share,
        "passes": _passes(fast, slow, share, proposing=threshold > 0),
        "work": (asking + share * thinking) / direct,
    }


def _work(spec: PolicySpec, stages: Sequence[Stage]) -> int:
    """Tokens that pass the network in some stages."""
    tokens, streamed = spec.tokens(), spec.backbone.traits.text == "stream"
    return sum(
        stage.passes * tokens.get(role.rstrip("'"), 0)
        for stage in stages
        for role in stage.roles
        if streamed or role != "text"
    )


def _passes(
    fast: Sequence[Stage], slow: Sequence[Stage], share: float, *, proposing: bool
) -> float:
    """Mean number of passes of a chunk."""
    if not proposing:
        return float(sum(s.passes for s in slow))
    return sum(s.passes for s in fast) + share * sum(
        s.passes for s in slow if not is_shared_stage(s)
    )
