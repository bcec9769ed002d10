"""The action that leaves a robot where it is, by the kind of each group of its actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..config.robot import ActionConfig

Actions = NDArray[np.float32]


def hold_action(
    config: ActionConfig, before: Actions | None, state: Actions | None = None
) -> Actions | None:
    """The action [A] that changes nothing, of the values that the robot gets.

    A difference is zero. A target stays that of the last action, because a target of zero is a
    place, to which the robot would move. Before the first action, that of a group of kind
    `relative` is its part of the state, and others are unknown.

    Args:
        config: The groups of an action.
        before: The last action [A] that was executed; None before the first one.
        state: State [P] of the robot; None if it is unknown.

    Returns:
        None if the target of a group is unknown.
    """
    parts: list[Any] = []
    start = 0
    for group in config.groups:
        if group.kind == "state":
            continue
        if group.kind == "delta":
            parts.append(np.zeros(group.size))
        elif before is not None:
            parts.append(before[start : start + group.size])
        elif group.kind == "relative" and state is not None and group.state is not None:
            parts.append(state[group.state : group.state + group.size])
        else:
            return None
        start += group.size
    return np.concatenate(parts).astype(np.float32)
