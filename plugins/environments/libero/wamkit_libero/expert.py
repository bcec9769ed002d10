"""A script that picks objects up and places them, with the simulator's knowledge of where they are.

Letters: p place of the fingertips, all in meters in the world.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wamkit.simulate.environment import EnvObservation

from .coding import encode_action
from .geometry import Points, sample_surface
from .grasps import HOLDS, Grasp, Hold, choose_grasp

if TYPE_CHECKING:
    from .environment import LiberoEnvironment

Vector = NDArray[np.float64]
GAIN, TURN_GAIN = 20.0, 2.0  # action for a meter, for a radian
OPEN, CLOSED = -1.0, 1.0
ABOVE = 0.10  # meters over an object before it is taken
CLEARANCE = 0.04  # meters between what is carried and what is below
DOWN = np.diag([1.0, -1.0, -1.0])  # the hand points down, its fingers move along y
ATTEMPTS = 4  # at one object


WITHOUT_SCRIPT = (
    ("chefmate*frypan", "*"),  # is held by its handle
    ("plate", "*"),  # slips; it is to be pushed
    ("wine_bottle", "*_region"),  # would have to lie
    ("ketchup", "*_cabinet_*_region"),  # is taller than the drawer
    ("*_book", "*_shelf_*_region"),  # goes in from the front
    ("*_book", "desk_caddy_*_front_contain_region"),  # is wider than the compartment
    ("*_book", "desk_caddy_*_right_contain_region"),
)
"""Category of object and target, as patterns: what a hand that only points down does not do."""
DRAWERS = "*_cabinet_[0-9]_*_region"


def plan_moves(
    goal: Sequence[Sequence[str]], beginning: Sequence[Sequence[str]], categories: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return what goes where, in order, or nothing if the script does not reach the goal.

    `goal` and `beginning` are what holds then, such as (in, milk_1, basket_1_contain_region);
    `categories` are those of the objects that can be moved.
    """
    for part in goal:
        if len(part) != 3 or part[0] not in ("in", "on") or part[1] not in categories:
            return []
        category, target = categories[part[1]], part[2]
        if any(fnmatch(category, one) and fnmatch(target, at) for one, at in WITHOUT_SCRIPT):
            return []
        if fnmatch(target, DRAWERS) and ["open", target] not in [list(one) for one in beginning]:
            return []
    return [(part[1], part[2]) for part in goal]


class PickAndPlace:
    """Puts objects where the goal of the task wants them, one after the other."""

    reads_images = False

    def __init__(self, environment: LiberoEnvironment, moves: list[tuple[str, str]]) -> None:
        self._environment, self._angle = environment, 0.0
        self._actions = self._run(moves)

    def act(self, seen: EnvObservation) -> NDArray[Any]:
        """The next action [7]."""
        action = next(self._actions, None)
        if action is None:
            action = self._act_toward(self._hand(), OPEN)
        return encode_action(self._environment.convention, action)

    def _run(self, moves: list[tuple[str, str]]) -> Iterator[Vector]:
        for thing, target in moves:
            self._failed: list[tuple[Vector, float]] = []
            for _ in range(ATTEMPTS):
                yield from self._pick(thing)
                if self._holds(thing):
                    yield from self._place(thing, target)
                    break
                yield from self._rise(OPEN, 0.15)

    def _pick(self, thing: str) -> Iterator[Vector]:
        """Take an object and lift it."""
        grasp = self._choose(thing)
        self._angle = grasp.angle
        start = self._place_of(thing)
        self._failed.append((grasp.place - start, grasp.angle))
        self._rest = start[2]

        def follow(height: float) -> Callable[[], Vector]:
            return lambda: grasp.place + (self._place_of(thing) - start) + [0, 0, height]

        clear = max(ABOVE, self._top_near(grasp.place[:2]) + 0.04 - grasp.place[2])
        yield from self._move(follow(clear), OPEN, 0.02, 70, turned=0.08)
        yield from self._move(follow(0.0), OPEN, 0.01, 30)
        yield from self._stay(CLOSED, 10)
        yield from self._rise(CLOSED, 0.08)

    def _place(self, thing: str, target: str) -> Iterator[Vector]:
        """Carry an object over its target and lower it."""
        hanging = self._hand()[2] - self._bottom_of(thing)
        way = self._top_between(self._hand()[:2], self._target_of(target)[:2], thing)
        high = way + hanging + CLEARANCE

        def over(height: float | None = None) -> Callable[[], Vector]:
            def goal() -> Vector:
                offset = self._hand() - self._place_of(thing)
                there = self._target_of(target) + offset
                return np.array([there[0], there[1], high if height is None else there[2] + height])

            return goal

        if self._hand()[2] < high - 0.02:
            yield from self._rise(CLOSED, high - self._hand()[2])
        yield from self._move(over(), CLOSED, 0.02, 100)
        support = self._support(target)
        drop = support - self._target_of(target)[2]
        low = self._place_of(thing)[2] - self._bottom_of(thing)
        yield from self._move(over(drop + low + 0.01), CLOSED, 0.012, 60, stalled=True)
        yield from self._stay(OPEN, 6)
        yield from self._rise(OPEN, 0.12)

    def _move(
        self,
        target: Callable[[], Vector],
        grip: float,
        near: float,
        limit: int,
        turned: float = 0.3,
        stalled: bool = False,
    ) -> Iterator[Vector]:
        """Move to a place until near, for at most `limit` actions, or until something stops it."""
        slow, before = 0, self._hand()
        for _ in range(limit):
            p, there = self._hand(), target()
            if np.linalg.norm(p - there) < near and np.linalg.norm(self._turn_left()) < turned:
                return
            slow = slow + 1 if np.linalg.norm(p - before) < 0.0008 else 0
            if stalled and slow > 6:
                return
            before = p
            yield self._act_toward(there, grip)

    def _rise(self, grip: float, height: float) -> Iterator[Vector]:
        p = self._hand()
        yield from self._move(lambda: p + np.array([0, 0, height]), grip, 0.02, 30)

    def _stay(self, grip: float, steps: int) -> Iterator[Vector]:
        p = self._hand()
        for _ in range(steps):
            yield self._act_toward(p, grip)

    def _act_toward(self, place: Vector, grip: float) -> Vector:
        """The action [7] of the simulator toward a place, with the hand turned as wanted."""
        step = np.clip((place - self._hand()) * GAIN, -1, 1)
        if step[2] < 0:  # down where it is aimed at
            step[2] *= np.clip(1.5 - np.linalg.norm(step[:2]) * 2, 0.2, 1)
        turn = np.clip(self._turn_left() * TURN_GAIN, -1, 1)
        return np.array([*step, *turn, grip])

    def _turn_left(self) -> Vector:
        """Axis times angle [3] from the hand's orientation to the wanted one."""
        cosine, sine = np.cos(self._angle), np.sin(self._angle)
        wanted = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]]) @ DOWN
        left = wanted @ _matrix(self._environment.values["robot0_eef_quat"]).T
        axis = np.array([left[2, 1] - left[1, 2], left[0, 2] - left[2, 0], left[1, 0] - left[0, 1]])
        sine = np.linalg.norm(axis) / 2
        angle = np.arctan2(sine, (np.trace(left) - 1) / 2)
        return axis / 2 * (angle / sine if sine > 1e-6 else 1.0)

    # What the simulator knows.

    @property
    def _task(self) -> Any:
        return self._environment.wrapper.env

    def _hand(self) -> Vector:
        return np.asarray(self._environment.values["robot0_eef_pos"], np.float64)

    def _place_of(self, thing: str) -> Vector:
        return np.array(self._task.sim.data.body_xpos[self._task.obj_body_id[thing]])

    def _target_of(self, target: str) -> Vector:
        if target in self._task.obj_body_id:
            return self._place_of(target)
        data = self._task.sim.data
        return np.array(data.site_xpos[self._task.sim.model.site_name2id(target)])

    def _points(self, thing: str) -> Points:
        return sample_surface(self._task.sim, self._task.obj_body_id[thing])

    def _others(self, *without: str) -> Points:
        names = [name for name in self._task.obj_body_id if name not in without]
        return np.concatenate([self._points(name) for name in names] or [np.zeros((0, 3))])

    def _choose(self, thing: str) -> Grasp:
        hold = HOLDS.get(self._task.get_object(thing).category_name, Hold())
        points = self._points(thing)
        others = self._others(thing)
        base = self._task.sim.data.body_xpos[self._task.sim.model.body_name2id("robot0_base")]
        others = others[others[:, 2] > points[:, 2].min() + 0.005]
        origin = self._place_of(thing)
        failed = [Grasp(origin + offset, angle) for offset, angle in self._failed]
        return choose_grasp(points, others, hold, base, failed)

    def _top_near(self, place: Vector) -> float:
        points = self._others()
        near = points[np.linalg.norm(points[:, :2] - place, axis=1) < 0.09, 2]
        return float(near.max()) if len(near) else 0.0

    def _top_between(self, start: Vector, end: Vector, carried: str) -> float:
        """Height of everything that a carried object passes on a straight way."""
        points, way = self._others(carried), end - start
        share = np.clip((points[:, :2] - start) @ way / max(float(way @ way), 1e-9), 0, 1)
        aside = np.linalg.norm(points[:, :2] - start - share[:, None] * way, axis=1)
        near = points[aside < 0.10, 2]
        return float(near.max()) if len(near) else 0.0

    def _bottom_of(self, thing: str) -> float:
        return float(self._points(thing)[:, 2].min())

    def _support(self, target: str) -> float:
        """Height on which an object comes to rest at a target."""
        x, y, z = self._target_of(target)
        if target in self._task.obj_body_id:
            points = self._points(target)
            near = points[np.linalg.norm(points[:, :2] - [x, y], axis=1) < 0.03, 2]
            return float(near.max()) if len(near) else z
        return float(z)

    def _holds(self, thing: str) -> bool:
        return bool(self._place_of(thing)[2] - self._rest > 0.04)


def _matrix(turn: NDArray[Any]) -> NDArray[Any]:
    """Rotation matrix [3, 3] of a quaternion x, y, z, w."""
    x, y, z, w = turn / np.linalg.norm(turn)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
