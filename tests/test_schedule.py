"""Noise schedules reproduce the published numbers."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from wamkit.schedule import NoiseSchedule, draw
from wamkit.schedules import ScheduleConfig


def test_ten_steps_at_shift_five_are_the_published_grid() -> None:
    grid = NoiseSchedule(ScheduleConfig(shift=5, steps=10)).grid()
    published = [1, 0.9783, 0.9524, 0.9211, 0.8824, 0.8333, 0.7692, 0.6818, 0.5556, 0.3571, 0]
    assert grid == pytest.approx(published, abs=5e-5)


@pytest.mark.parametrize(
    ("shift", "level", "weight"),
    [
        (5, 0.1, 0.631),
        (5, 0.3, 1.671),
        (5, 0.5, 2.076),
        (5, 0.833, 1.027),
        (5, 1.0, 0.0),
        (1, 0.5, 1.580),
        (0.05, 0.5, 3.840),
    ],
)
def test_bell_weights_are_the_published_ones(shift: float, level: float, weight: float) -> None:
    schedule = NoiseSchedule(ScheduleConfig(shift=shift))
    assert float(schedule.weight(torch.tensor(level))) == pytest.approx(weight, abs=1e-3)


def test_a_perfect_velocity_leads_from_noise_to_data() -> None:
    schedule = NoiseSchedule(ScheduleConfig(steps=4))
    rng = torch.Generator().manual_seed(0)
    data = torch.randn(2, 3, generator=rng)
    noise = draw((2, 3), data, rng)
    x, grid = noise, schedule.grid()
    for sigma, lower in pairwise(grid):
        x = schedule.step(x, schedule.velocity(data, noise), sigma, lower)
    torch.testing.assert_close(x, data, atol=1e-6, rtol=0)


def test_noise_is_added_in_float32_and_drawn_from_the_generator() -> None:
    schedule = NoiseSchedule(ScheduleConfig(weight="none"))
    x = torch.ones(2, 3, 4)
    sigma = torch.tensor([0.25, 1.0])
    out = schedule.add(x, torch.zeros_like(x), sigma)
    assert out[0].unique().tolist() == [0.75] and out[1].unique().tolist() == [0.0]
    one, two = (schedule.sample((1000,), x, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1 and one.median() > 0.75
    assert schedule.weight(sigma).tolist() == [1, 1]
