"""Surface points of the bodies in a MuJoCo simulation, from their collision boxes.

Letters: N points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

COLLISION = 0  # group of geoms
BOX = 6  # mujoco.mjtGeom.mjGEOM_BOX
SPACING = 0.008  # meters between points of a face, at most

Points = NDArray[np.float64]


def find_bodies(model: Any, root: int) -> list[int]:
    """Return a body and everything that hangs on it."""
    found = [root]
    for body in range(root + 1, model.nbody):  # parents come before their children
        if model.body_parentid[body] in found:
            found.append(body)
    return found


def sample_surface(simulation: Any, root: int) -> Points:
    """Return points [N, 3] in the world on the collision boxes of a body and its children."""
    model, data = simulation.model._model, simulation.data._data
    bodies = find_bodies(model, root)
    points = [
        data.geom_xpos[geom] + _sample_box(model.geom_size[geom]) @ _turn(data.geom_xmat[geom]).T
        for geom in range(model.ngeom)
        if model.geom_bodyid[geom] in bodies
        and model.geom_group[geom] == COLLISION
        and model.geom_type[geom] == BOX
    ]
    return np.concatenate(points) if points else np.zeros((0, 3))


def _turn(flat: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(flat).reshape(3, 3)


def _sample_box(half: NDArray[Any]) -> Points:
    """Return points [N, 3] on the faces of a box with these half sizes."""
    axes = [np.linspace(-h, h, min(2 + int(2 * h / SPACING), 16)) for h in half]
    faces = []
    for axis in range(3):
        ends: list[NDArray[Any]] = list(axes)
        ends[axis] = np.array([-half[axis], half[axis]])
        faces.append(np.stack(np.meshgrid(*ends, indexing="ij"), -1).reshape(-1, 3))
    return np.concatenate(faces)
