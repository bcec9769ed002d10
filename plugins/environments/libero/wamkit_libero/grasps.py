"""How a parallel gripper takes an object from above: around its body or by its rim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .geometry import Points

OPENING = 0.076  # meters between the open fingers
FINGER = 0.02  # meters that a finger needs outside
ANGLES = 16  # directions that are tried
NEAR = 0.68  # meters from the base that the arm reaches without being stretched
PALM = (0.11, 0.035)  # meters from its center, along the fingers' motion and across
PALM_ABOVE = 0.035  # meters of the palm above the fingertips


@dataclass(frozen=True)
class Hold:
    """How objects of a category are taken."""

    by: Literal["body", "rim"] = "body"
    depth: float = 0.025  # meters of the fingertips below the top of the object


HOLDS = {
    "akita_black_bowl": Hold("rim", 0.015),
    "white_bowl": Hold("rim", 0.015),
    "red_coffee_mug": Hold("rim", 0.025),
    "porcelain_mug": Hold("rim", 0.025),
    "white_yellow_mug": Hold("rim", 0.025),
}
"""Category -> how it is taken, where it is not the default."""


@dataclass(frozen=True)
class Grasp:
    """Where the fingertips close, and in which direction."""

    place: NDArray[np.float64]  # [3] meters
    angle: float  # radians from the y axis of the world, in [-pi/2, pi/2]


def choose_grasp(
    points: Points,
    others: Points,
    hold: Hold,
    base: NDArray[np.float64] | None = None,
    failed: Sequence[Grasp] = (),
) -> Grasp:
    """Choose where to take an object with these points, away from the points of others.

    `base`: place of the robot; what is far from it is reached with an arm that is not stretched.
    `failed`: what was tried before, and is not tried again while there is something else.
    """
    top, bottom = points[:, 2].max(), points[:, 2].min()
    z = top - min(hold.depth, (top - bottom) * 0.6)
    near = points[np.abs(points[:, 2] - z) < 0.012]
    if len(near) < 3:
        near = points
    candidates = (_rim if hold.by == "rim" else _body)(near[:, :2], points[:, :2])
    scored = [
        (_cost(np.array([*place, z]), direction, width, others) + aside, place, direction)
        for place, direction, width, aside in candidates
    ]
    if base is not None:
        scored = [
            (cost + 2 * max(0.0, float(np.linalg.norm(place - base[:2])) - NEAR), place, direction)
            for cost, place, direction in scored
        ]
    scored = [
        (cost + 0.3 * sum(_is_like(one, place, direction) for one in failed), place, direction)
        for cost, place, direction in scored
    ]
    _, place, direction = min(scored, key=lambda one: one[0])
    return Grasp(np.array([*place, z]), _angle(direction))


def _is_like(grasp: Grasp, place: NDArray[np.float64], direction: NDArray[np.float64]) -> bool:
    turn = abs(_angle(direction) - grasp.angle) % np.pi
    apart = float(np.linalg.norm(grasp.place[:2] - place))
    return apart < 0.012 and min(turn, np.pi - turn) < 0.2


Candidate = tuple[NDArray[np.float64], NDArray[np.float64], float, float]
# place, direction, width, and what it costs to be off the best place


def _directions() -> NDArray[np.float64]:
    turned = np.arange(ANGLES) * 2 * np.pi / ANGLES
    return np.stack([-np.sin(turned), np.cos(turned)], -1)  # the first is y


def _body(band: NDArray[np.float64], whole: NDArray[np.float64]) -> list[Candidate]:
    """Between the fingers: center, direction and width of the object at this height."""
    found = []
    for direction in _box_directions(band):
        along = band @ direction
        low, high = along.min(), along.max()
        across = np.array([-direction[1], direction[0]])
        side = band @ across
        place = direction * (low + high) / 2 + across * (side.min() + side.max()) / 2
        room = max(0.0, np.ptp(side) / 2 - 0.012)
        for shift in {0.0, min(room, 0.015), -min(room, 0.015)}:
            found.append((place + across * shift, direction, high - low, abs(shift)))
    return found


def _box_directions(band: NDArray[np.float64]) -> NDArray[np.float64]:
    """Directions along and across the smallest rectangle around the points."""
    turned = np.arange(90) * np.pi / 180
    along = np.stack([-np.sin(turned), np.cos(turned)], -1)
    across = np.stack([along[:, 1], -along[:, 0]], -1)
    area = np.ptp(band @ along.T, axis=0) * np.ptp(band @ across.T, axis=0)
    best = int(np.argmin(area))
    if area.max() < 1.12 * area[best]:  # round: any direction will do, without turning
        best = 0
    return np.stack([along[best], across[best]])


def _rim(band: NDArray[np.float64], whole: NDArray[np.float64]) -> list[Candidate]:
    """One finger inside: the wall of the object in each direction from its center."""
    center = (whole.max(0) + whole.min(0)) / 2
    found = []
    for direction in _directions():
        offset = band - center
        along, aside = offset @ direction, np.abs(offset @ [-direction[1], direction[0]])
        wall = along[(aside < 0.012) & (along > 0)]
        if len(wall):
            found.append((center + direction * (wall.max() - 0.004), direction, 0.01, 0.0))
    return found


def _cost(
    place: NDArray[np.float64], direction: NDArray[np.float64], width: float, others: Points
) -> float:
    """Prefer what fits, little turning, and a hand that does not meet others."""
    cost = abs(_angle(direction)) * 0.02
    if width > OPENING:
        cost += 10 * (width - OPENING) + 1
    if not len(others):
        return cost
    for sign in (1, -1):
        finger = place[:2] + sign * direction * (OPENING / 2 + FINGER / 2)
        low = others[others[:, 2] > place[2] - 0.01, :2]
        if len(low):
            nearest = np.linalg.norm(low - finger, axis=1).min()
            cost += max(0.0, FINGER - nearest) * 5
    high = others[others[:, 2] > place[2] + PALM_ABOVE, :2] - place[:2]
    along, across = np.abs(high @ direction), np.abs(high @ [-direction[1], direction[0]])
    inside = np.minimum(PALM[0] - along, PALM[1] - across)
    return cost + max(0.0, float(inside.max(initial=0.0))) * 5


def _angle(direction: NDArray[np.float64]) -> float:
    """Angle of a direction from y, modulo half a turn: the fingers are alike."""
    angle = np.arctan2(-direction[0], direction[1])
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)
