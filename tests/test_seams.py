"""Seams between chunks, and relative actions seen from another state, by closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from wamkit.policy.reanchor import (
    axis_angle_to_matrix,
    matrix_to_axis_angle,
    reanchor_angles,
    reanchor_differences,
    reanchor_poses,
)
from wamkit.policy.seams import SeamMeter, executed_run, measure_runs, measure_seams
from wamkit.testing.parity import same_values


def test_a_straight_line_has_no_seam() -> None:
    line = np.arange(12.0)[:, None] * [[3.0, 4.0]]
    found = measure_seams(line, [4, 8])
    assert (found.jump, found.jump_within, found.jump_ratio) == (5, 5, 1)
    assert found.jerk == pytest.approx(0) and found.jerk_within == pytest.approx(0)
    assert found.seams == 2


def test_a_step_is_a_jump_at_its_seam_alone() -> None:
    """Third differences of a step of height h are h, -2 h, h."""
    step = np.where(np.arange(10) < 5, 0.0, 2.0)[:, None]
    found = measure_seams(step, [5], control_hz=10)
    assert (found.jump, found.jump_within) == (2, 0) and found.jump_ratio == float("inf")
    assert found.jerk == 4000 and found.jerk_within == 0
    elsewhere = measure_seams(step, [8])
    assert elsewhere.jump == 0 and elsewhere.jerk_within > 0


def test_differences_jump_as_velocities_and_jerk_as_their_sum() -> None:
    """Velocity 1 and then 3: a jump of 2, and third differences 2 and -2 of the place."""
    velocity = np.where(np.arange(10) < 5, 1.0, 3.0)[:, None]
    found = measure_seams(velocity, [5], deltas=[0])
    assert (found.jump, found.jump_within) == (2, 0)
    assert found.jerk == 2 and found.jerk_within == 0
    both = np.concatenate([velocity, np.zeros_like(velocity)], 1)
    assert measure_seams(both, [5], deltas=[0]) == found


@pytest.mark.parametrize("longest", [1, 2, 3, 9])
def test_seams_are_measured_while_actions_are_executed_as_afterwards(longest: int) -> None:
    """Chunks of 1 to `longest` actions, in runs of 1 to 20 actions with pauses between them."""
    rng = np.random.default_rng(longest)
    meter, runs = SeamMeter(10.0, [1]), []
    for size in (*rng.integers(1, 21, 10), 2, 3, 4):
        actions = rng.normal(size=(size, 3))
        starts = np.cumsum(rng.integers(1, longest + 1, size))
        runs.append((actions, [int(start) for start in starts if start < size]))
        meter.pause()
        for at, action in enumerate(actions):
            meter.add(action, begins=at == 0 or at in runs[-1][1])
        found, expected = meter.sums.smoothness, measure_runs(runs, 10.0, [1])
        assert vars(found) == pytest.approx(vars(expected), rel=1e-9)
    assert expected.seams > 10 and expected.jerk > 0


def test_several_runs_count_as_one_without_seams_between_them() -> None:
    one, two = np.array([[0.0], [1.0], [3.0]]), np.array([[9.0], [9.0], [13.0], [13.0]])
    found = measure_runs([(one, [2]), (two, [2])])
    assert (found.jump, found.jump_within, found.seams) == (3, 1 / 3, 2)
    assert measure_runs([]).seams == 0


def test_what_is_executed_of_overlapping_chunks() -> None:
    """H = 6, s = 3, d = 1: the old chunk goes on for one action after the new one is asked for."""
    chunks = [np.array([[10.0 * k + i] for i in range(6)]) for k in range(3)]
    actions, starts = executed_run(chunks, 3, 1)
    assert actions[:, 0].tolist() == [0, 1, 2, 3, 11, 12, 13, 21, 22, 23]
    assert starts == [4, 7]
    assert executed_run(chunks[:1], 6)[1] == []
    with pytest.raises(ValueError, match="leave 1 of a chunk of 6"):
        executed_run(chunks, 5, 2)


def test_places_that_are_no_seams_are_refused() -> None:
    with pytest.raises(ValueError, match="a chunk begins at 10; expected 1 to 9"):
        measure_seams(np.zeros((10, 2)), [10])
    with pytest.raises(ValueError, match=r"expected \[T, A\]"):
        measure_seams(np.zeros(10), [1])


def test_differences_move_against_the_state() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0]])
    then, now = np.array([0.5, 0.0]), np.array([1.5, -1.0])
    found = reanchor_differences(values, then, now)
    assert found.tolist() == [[0, 3], [2, 5]]
    assert (found + now).tolist() == (values + then).tolist()


def test_angles_stay_on_their_branch() -> None:
    """A target of 3.2 seen from 3.1 is 0.1; from -3.1, which is 3.183, it is 0.017."""
    found = reanchor_angles(np.array([[0.1]]), np.array([3.1]), np.array([-3.1]))
    assert found[0, 0] == pytest.approx(6.3 - 2 * np.pi)


def test_poses_as_seen_from_where_the_robot_is_now() -> None:
    """It was at the origin, and is 1 ahead, turned left by 90 degrees: ahead is to the right."""
    quarter = axis_angle_to_matrix(np.array([0.0, 0.0, np.pi / 2]))
    then, now = (np.zeros(3), np.eye(3)), (np.array([1.0, 0.0, 0.0]), quarter)
    p, r = reanchor_poses(np.array([[2.0, 0.0, 0.0]]), np.eye(3)[None], then, now)
    same_values(p, [[0, -1, 0]], 1e-8)
    same_values(r[0], quarter.T, 1e-8)


def test_poses_in_the_world_stay_where_they_are() -> None:
    rng = np.random.default_rng(0)
    turns = axis_angle_to_matrix(rng.normal(size=(5, 3)))
    p, (p_then, p_now) = rng.normal(size=(3, 3)), rng.normal(size=(2, 3))
    then, now = (p_then, turns[0]), (p_now, turns[1])
    moved, turned = reanchor_poses(p, turns[2:], then, now)
    same_values(p_now + moved @ turns[1].T, p_then + p @ turns[0].T, 1e-8)
    same_values(turns[1] @ turned, turns[0] @ turns[2:], 1e-8)
    again = reanchor_poses(moved, turned, now, then)
    same_values(again[0], p, 1e-8)
    same_values(again[1], turns[2:], 1e-8)


def test_rotation_vectors_come_back_from_matrices() -> None:
    rng = np.random.default_rng(1)
    axes = rng.normal(size=(7, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    angles = np.array([0.0, 1e-9, 1e-3, 1.0, 2.0, 3.0, np.pi - 1e-6])
    vectors = axes * angles[:, None]
    matrices = axis_angle_to_matrix(vectors)
    unit = np.broadcast_to(np.eye(3), matrices.shape)
    same_values(matrices @ matrices.transpose(0, 2, 1), unit, 1e-8)
    same_values(matrix_to_axis_angle(matrices), vectors, 1e-8)
    half = axis_angle_to_matrix(np.array([np.pi, 0.0, 0.0]))
    same_values(half, np.diag([1.0, -1.0, -1.0]), 1e-8)
    same_values(np.abs(matrix_to_axis_angle(half)), [np.pi, 0, 0], 1e-8)
