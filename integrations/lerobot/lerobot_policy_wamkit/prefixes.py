"""Real-time chunking of LeRobot as prefixes of wamkit; without LeRobot."""

from __future__ import annotations

from torch import Tensor

from wamkit.config.prefix import MODES, act_refusal
from wamkit.config.spec import PolicySpec
from wamkit.policy.action_prefix import ActionPrefix


def takes_prefixes(spec: PolicySpec) -> bool:
    """Whether a policy can begin a chunk with given actions."""
    return any(act_refusal(spec, mode, 1) is None for mode in MODES)


def prefix_of(spec: PolicySpec, left: Tensor, delay: int, size: int = 1) -> ActionPrefix | None:
    """The prefix that a chunk begins with; None without any.

    LeRobot fills what is left with zeros up to a fixed length. Zeros are a position like any other
    to a policy in physical units, so rows of zeros at the end are not taken.

    Args:
        spec: Of the policy.
        left: What is left of the chunk before [n, A] or [B, n, A], in physical units.
        delay: How many of them are executed while the next chunk is computed.
        size: Samples (B) that one row of actions is for.
    """
    values = left if left.ndim == 3 else left.expand(size, *left.shape)
    filled = values.ne(0).any(-1).any(0).nonzero().flatten()
    count = 0 if not len(filled) else min(int(filled[-1]) + 1, spec.actions.chunk_size)
    delay = min(delay, count)
    modes = [mode for mode in MODES if delay and act_refusal(spec, mode, delay) is None]
    if not modes:
        return None
    taken = values[:, :count] if modes[0] == "guided" else values[:, :delay]
    return ActionPrefix(taken.float().cpu(), delay=delay, mode=modes[0])
