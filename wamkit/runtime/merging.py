"""How a new chunk continues the actions that are still to be executed.

    asked here                     chunk in execution:  a a a a a a a a
    |          reply is here       executed meanwhile: [a a a]
    v          v                   rest, still planned:       [a a a a a]
    n n n n n n n n  new chunk, of which the first 3 are for moments that have passed

All functions take `rest` [R, A], the actions that are still planned, `chunk` [N, A], whose first
action is for the moment that was observed, and `executed`, how many actions the robot made since
then. They return the actions [M, A] to execute from now on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Actions = NDArray[np.float32]
Merge = Callable[[Actions, Actions, int], Actions]


def replace(rest: Actions, chunk: Actions, executed: int) -> Actions:
    """The new chunk from the present on; what was planned is dropped.

    Smooth where the chunk was computed with `rest` as its prefix (real-time chunking), and a jump
    elsewhere. A chunk that is over already changes nothing.
    """
    return chunk[executed:] if executed < len(chunk) else rest


def append(rest: Actions, chunk: Actions, executed: int) -> Actions:
    """What is planned is executed to its end, and the new chunk from that moment on."""
    return np.concatenate([rest, chunk[executed + len(rest) :]])


def weighted(rest: Actions, chunk: Actions, executed: int, weight: float = 0.7) -> Actions:
    """Where both plan an action, `weight` of the new one and 1 - `weight` of the old one.

    Beyond the shorter of the two, the longer one alone.
    """
    new = chunk[executed:]
    both = min(len(rest), len(new))
    mixed = (1 - weight) * rest[:both] + weight * new[:both]
    return np.concatenate([mixed, new[both:] if len(new) > both else rest[both:]])


MERGES: dict[str, Merge] = {"replace": replace, "weighted": weighted, "append": append}


def jump(rest: Actions, merged: Actions) -> float:
    """The largest change of the next action by a new plan; 0 where nothing was planned."""
    if not len(rest) or not len(merged):
        return 0.0
    largest: Any = np.abs(merged[0] - rest[0]).max()
    return float(largest)
