"""The prefix of a request: actions that the chunk begins with, for real-time chunking.

`prefix` is a map: `values` [n, A], the actions that are still to be executed, in physical units and
beginning with the one of the moment that is observed; `delay`, how many of them are executed until
the reply is there (all, if it is left out); `mode`, one of those that the greeting names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..config.prefix import MODES, act_refusal
from ..errors import WamkitError, did_you_mean
from ..policy.action_prefix import ActionPrefix
from ..policy.observation import ActionChunk, Observation
from ..policy.policy import Policy
from .fields import to_vector
from .quoting import list_values, quote

PREFIX = "prefix"
VALUES, DELAY, MODE = "values", "delay", "mode"


@dataclass(frozen=True)
class RequestPrefix:
    """Actions that the chunk of one robot begins with, or of several with the same delay."""

    values: Tensor  # [B, n, A] in physical units
    delay: int
    mode: str

    @property
    def signature(self) -> tuple[Any, ...]:
        """Equal for prefixes that fit into one batch."""
        return tuple(self.values.shape[1:]), self.delay, self.mode

    def stack(self, others: Sequence[RequestPrefix | None]) -> RequestPrefix:
        """Those of several robots, all of this signature."""
        values = torch.cat([one.values for one in others if one is not None])
        return RequestPrefix(values, self.delay, self.mode)


def prefix_modes(policy: Policy) -> tuple[str, ...]:
    """Modes in which a policy begins a chunk with given actions; none if it does not."""
    return tuple(mode for mode in MODES if act_refusal(policy.spec, mode, 1) is None)


def parse_prefix(
    request: Mapping[str, Any], policy: Policy, modes: Sequence[str]
) -> RequestPrefix | None:
    """The prefix of a request; None without one, or with an empty one. Raises WamkitError."""
    if (found := request.get(PREFIX)) is None:
        return None
    if not isinstance(found, dict) or VALUES not in found:
        raise WamkitError(
            f"'{PREFIX}' is {quote(found)}; expected a map with {VALUES!r}",
            f"send the actions that are still to be executed as '{VALUES}' [n, A]",
        )
    if unknown := [key for key in found if key not in (VALUES, DELAY, MODE)]:
        raise WamkitError(
            f"'{PREFIX}' has {list_values(unknown)}; expected {VALUES}, {DELAY}, {MODE}",
            "leave out other keys",
        )
    mode = found.get(MODE, modes[0])
    if not isinstance(mode, str) or mode not in modes:
        hint = did_you_mean(str(mode)[:60], list(modes), f"choose one of {', '.join(modes)}")
        raise WamkitError(f"this policy takes no prefix in mode {quote(mode)}", hint)
    values = to_vector(PREFIX, found[VALUES], (-1, len(policy.actions.executed)))
    if not bool(torch.isfinite(values).all()):
        raise WamkitError(
            f"'{VALUES}' of the prefix are not all finite", "send the actions that are executed"
        )
    count = values.shape[1]
    delay = found.get(DELAY, count)
    if not isinstance(delay, int) or isinstance(delay, bool) or not 0 <= delay <= count:
        raise WamkitError(
            f"'{DELAY}' of a prefix of {count} actions is {quote(delay)}",
            f"send a count of steps from 0 to {count}",
        )
    return RequestPrefix(values, delay, mode) if count else None


def act_with_prefix(
    act: Callable[..., ActionChunk],
    prefix: RequestPrefix | None,
    seen: Observation,
    *more: Any,
    **options: Any,
) -> ActionChunk:
    """Call `act` of a policy or session, with the prefix if there is one."""
    if prefix is None:
        return act(seen, *more, **options)
    given = ActionPrefix(prefix.values, prefix.delay, mode=prefix.mode)  # type: ignore[arg-type]
    return act(seen, *more, prefix=given, **options)
