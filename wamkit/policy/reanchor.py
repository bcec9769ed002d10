"""Actions that are relative to a state, moved to another one: the rest of a chunk as a prefix.

A chunk of relative poses says where to be as seen from where the robot was when it was made. As
the beginning of the next chunk it must say so as seen from where the robot is now. With poses as
rotation R and position p, in the frame of the world,

    R_new = R_now^T R_then R        p_new = R_now^T (p_then + R_then p - p_now)

`ActionPrefix` does this for groups of kind "relative", which are differences to the state value by
value. The functions here are for robots whose actions are relative poses; they take NumPy arrays.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


def reanchor_differences(values: Array, then: Array, now: Array) -> Array:
    """Differences [..., n, D] to the state `then` [..., D], as differences to the state `now`."""
    return values + np.expand_dims(then - now, -2)


def reanchor_angles(values: Array, then: Array, now: Array) -> Array:
    """As `reanchor_differences` for angles in radians; the results are in [-pi, pi)."""
    found = reanchor_differences(values, then, now)
    return (found + np.pi) % (2 * np.pi) - np.pi


def reanchor_poses(
    positions: Array,
    rotations: Array,
    then: tuple[Array, Array],
    now: tuple[Array, Array],
) -> tuple[Array, Array]:
    """Relative poses as seen from another pose.

    Args:
        positions: [n, 3], as seen from the pose `then`.
        rotations: Rotation matrices [n, 3, 3], as seen from there.
        then: Position [3] and rotation matrix [3, 3] in the frame of the world.
        now: The same of the pose from which the results are seen.

    Returns:
        Positions [n, 3] and rotation matrices [n, 3, 3].
    """
    (p_then, r_then), (p_now, r_now) = then, now
    world = p_then + positions @ r_then.T
    return (world - p_now) @ r_now, r_now.T @ r_then @ rotations


def axis_angle_to_matrix(vectors: Array) -> Array:
    """Rotation vectors [..., 3], axis times angle in radians, as matrices [..., 3, 3]."""
    angle = np.linalg.norm(vectors, axis=-1)[..., None, None]
    k = np.zeros((*vectors.shape[:-1], 3, 3), vectors.dtype)
    x, y, z = np.moveaxis(vectors, -1, 0)
    k[..., 0, 1], k[..., 0, 2], k[..., 1, 2] = -z, y, -x
    k[..., 1, 0], k[..., 2, 0], k[..., 2, 1] = z, -y, x
    sine = np.sinc(angle / np.pi)  # sin(a) / a
    cosine = np.sinc(angle / (2 * np.pi)) ** 2 / 2  # (1 - cos(a)) / a^2
    return np.eye(3) + sine * k + cosine * (k @ k)  # type: ignore[no-any-return]


def matrix_to_axis_angle(matrices: Array) -> Array:
    """Rotation matrices [..., 3, 3] as rotation vectors [..., 3] of angles in [0, pi]."""
    w, xyz = _quaternion(matrices)
    length = np.linalg.norm(xyz, axis=-1)
    angle = 2 * np.arctan2(length, w)
    small = length < 1e-12
    scale = np.where(small, 2.0, angle / np.where(small, 1.0, length))
    return scale[..., None] * xyz  # type: ignore[no-any-return]


def _quaternion(matrices: Array) -> tuple[Array, Array]:
    """Unit quaternions of rotation matrices, w >= 0: w [...] and x y z [..., 3].

    The largest of the four components is found first, so that none is divided by a small one.
    """
    m = matrices
    diagonal = np.stack([m[..., i, i] for i in range(3)], -1)
    trace = diagonal.sum(-1)
    squares = np.concatenate([1 + trace[..., None], 1 + 2 * diagonal - trace[..., None]], -1)
    d = [m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]]
    s = [m[..., 1, 0] + m[..., 0, 1], m[..., 0, 2] + m[..., 2, 0], m[..., 2, 1] + m[..., 1, 2]]
    rows = np.stack(  # 4 q_i q, for each i of w, x, y, z
        [
            np.stack([squares[..., 0], d[0], d[1], d[2]], -1),
            np.stack([d[0], squares[..., 1], s[0], s[1]], -1),
            np.stack([d[1], s[0], squares[..., 2], s[2]], -1),
            np.stack([d[2], s[1], s[2], squares[..., 3]], -1),
        ],
        -2,
    )
    best = squares.argmax(-1)[..., None, None]
    q = np.take_along_axis(rows, np.broadcast_to(best, (*best.shape[:-1], 4)), -2)[..., 0, :]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    q = np.where(q[..., :1] < 0, -q, q)
    return q[..., 0], q[..., 1:]
