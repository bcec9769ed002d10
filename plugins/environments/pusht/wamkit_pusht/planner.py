"""An expert for PushT that tries pushes in its mind, in a second simulator, and makes the best.

    around the T at a distance     to a point outside its edge     through the edge, some way in
    o  o  o  o                 ->  o                            ->  o o o o

A push must reduce the distance of each corner of the T from its goal; steps have a cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pymunk.vec2d import Vec2d

from wamkit.simulate.environment import EnvObservation

Points = NDArray[np.float64]  # [n, 2] on the table

SUBSTEPS = 10  # of the physics in one action
CLEAR = 88.0  # a straight way that keeps so far from the T's center does not touch it
ORBIT = 115.0  # radius of a way around it
REACH = 32.0  # from an edge to where a push begins
RADIUS = 15.0  # of the disk
FAST, SLOW = 26.0, 14.0  # units an action, on the way and while pushing
EDGE = 10.0  # pushes stay so far from the rim of the table
LONGEST = 45  # actions in a push
COARSE, NEAR = 25.0, 14.0  # mean distances of corners, where finer pushes are worth trying


def rotate(angle: float) -> Points:
    """The matrix that turns by an angle [2, 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


class Planner:
    """`wamkit.simulate.Expert`: one push after the other, each chosen among many."""

    def __init__(self, real: Any, mind: Any, candidates: int, seed: int) -> None:
        self._real, self._mind, self._candidates = real, mind, candidates
        self._rng = np.random.default_rng([seed, 2])
        self._parts: list[Points] = [
            np.array([tuple(v) for v in shape.get_vertices()]) for shape in mind.block.shapes
        ]
        self._corners = np.concatenate(self._parts)
        x, y, angle = real.goal_pose
        self._goal = self._corners @ rotate(angle).T + (x, y)
        self._plan: list[Points] = []

    def act(self, seen: EnvObservation) -> NDArray[Any]:
        """Where the disk goes next [2]; a push is planned when the last one is done."""
        if not self._plan:
            self._plan = self._best()
        return self._plan.pop(0)

    def _distance(self, block: Any) -> float:
        """How far the corners of a T are from where they belong, on average."""
        now = self._corners @ rotate(block.angle).T + tuple(block.position)
        return float(np.linalg.norm(now - self._goal, axis=1).mean())

    def _best(self) -> list[Points]:
        """The actions of the push that gains most for the steps it takes."""
        block, agent = self._real.block, np.array(self._real.agent.position)
        center, before = np.array(block.position), self._distance(self._real.block)
        price = 0.12 if before > COARSE else 0.04 if before > NEAR / 2 else 0.012
        tries = self._candidates * (1 if before > NEAR else 3)
        best: tuple[float, list[Points]] = (-np.inf, [agent])
        for _ in range(tries):
            begin, end = self._push(center, block.angle, fine=before <= NEAR)
            if min(*begin, *end) < EDGE or max(*begin, *end) > 512 - EDGE:
                continue
            actions = list(_interpolate_path(agent, [*_way(agent, begin, center), begin, end]))
            if len(actions) > LONGEST:
                continue
            self._think(actions)
            gain = before - self._distance(self._mind.block) - price * len(actions)
            if gain > best[0]:
                best = gain, actions
        return best[1]

    def _push(self, center: Points, angle: float, *, fine: bool) -> tuple[Points, Points]:
        """Where a random push begins and ends: at a point of an edge, roughly across it."""
        rng = self._rng
        part = self._parts[rng.integers(len(self._parts))]
        i = rng.integers(len(part))
        a, b = part[i], part[(i + 1) % len(part)]
        point = a + (b - a) * rng.uniform(0.05, 0.95)
        outward = np.array([b[1] - a[1], a[0] - b[0]]) / np.linalg.norm(b - a)
        if outward @ (point - part.mean(0)) < 0:
            outward = -outward
        outward = rotate(rng.normal(0, 0.25)) @ outward
        low, high = (
            (0.5, 12.0) if fine else ((1.0, 10.0), (3.0, 20.0), (15.0, 90.0))[rng.integers(3)]
        )
        depth = rng.uniform(low, high)
        turn = rotate(angle)
        begin = turn @ (point + outward * REACH) + center
        return begin, turn @ (point - outward * (depth - RADIUS)) + center

    def _think(self, actions: list[Points]) -> None:
        """Carry out actions in the mind, from how things really are."""
        for mine, true in (
            (self._mind.agent, self._real.agent),
            (self._mind.block, self._real.block),
        ):
            mine.angle = true.angle
            mine.position, mine.velocity = true.position, true.velocity
            mine.angular_velocity = true.angular_velocity
            self._mind.space.reindex_shapes_for_body(mine)
        mind, agent = self._mind, self._mind.agent
        for action in actions:
            goal = Vec2d(float(action[0]), float(action[1]))
            for _ in range(SUBSTEPS):
                force = mind.k_p * (goal - agent.position) - mind.k_v * agent.velocity
                agent.velocity += force * mind.dt
                mind.space.step(mind.dt)


def _way(start: Points, goal: Points, center: Points) -> Iterator[Points]:
    """Points on the way around the T, if the straight one would touch it."""
    line = goal - start
    along = np.clip((center - start) @ line / (line @ line + 1e-9), 0, 1)
    if np.linalg.norm(start + along * line - center) >= CLEAR:
        return
    first = np.arctan2(*(start - center)[::-1])
    turn = (np.arctan2(*(goal - center)[::-1]) - first + np.pi) % (2 * np.pi) - np.pi
    count = max(1, int(abs(turn) / 0.5))
    for angle in first + turn * np.arange(count + 1) / count:
        around = center + ORBIT * np.array([np.cos(angle), np.sin(angle)])
        yield np.clip(around, 8.0, 504.0)


def _interpolate_path(start: Points, points: list[Points]) -> Iterator[Points]:
    """Where the disk is sent, action by action, along `points`; slowly to the last of them."""
    here = start.astype(float)
    for i, point in enumerate(points):
        pace = SLOW if i == len(points) - 1 else FAST
        while (left := float(np.linalg.norm(point - here))) > 1e-6:
            here = here + (point - here) * min(1.0, pace / left)
            yield here
    yield here
    yield here
