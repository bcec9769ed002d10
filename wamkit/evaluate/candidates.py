"""Action sequences to try from one state."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..config.robot import ActionConfig
from ..simulate.environment import Robot

Actions = NDArray[np.float32]  # [N, A] in physical units


def candidates(
    config: ActionConfig,
    robot: Robot,
    demonstrated: Actions,
    hold: NDArray[np.float32] | None,
    rng: np.random.Generator,
    randoms: int = 2,
) -> dict[str, Actions]:
    """name -> a chunk of actions, all within the limits of the robot.

    `demonstrated` [N, A] are those that were taken from the state, `hold` [A] is the action that
    leaves the robot there, and left out if it is unknown. `mirrored` is the negative of the
    demonstrated one in groups of kind delta, and left out if there are none; each of the random
    ones is one action, drawn within the limits, for the whole chunk.
    """
    delta = np.array([group.kind == "delta" for group in config.groups for _ in range(group.size)])
    low, high = np.asarray(robot.low, np.float32), np.asarray(robot.high, np.float32)
    shape = demonstrated.shape
    found = {"demonstrated": demonstrated}
    if hold is not None:
        found["hold"] = np.broadcast_to(hold, shape)
    if delta.any():
        found["mirrored"] = np.where(delta, -demonstrated, demonstrated)
    for number in range(randoms):
        found[f"random_{number + 1}"] = np.broadcast_to(rng.uniform(low, high), shape)
    return {name: np.clip(made, low, high).astype(np.float32) for name, made in found.items()}
