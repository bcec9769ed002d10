"""Every solver leads from noise to data, at its order and as its reference does."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from wamkit.config.noise_schedule import ScheduleConfig
from wamkit.engine.noise_schedule import NoiseSchedule, draw_noise
from wamkit.engine.samplers import SOLVERS, Sampler
from wamkit.testing.parity import float64, same_values

Velocity = Callable[[Tensor, float], Tensor]
SPREAD = 0.4
"""Standard deviation of the data in the closed-form flow; their mean is 0.7."""


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def noise() -> Tensor:
    return torch.randn(4, 3, 5, dtype=torch.float64, generator=rng())


def schedule(solver: str, **settings: Any) -> NoiseSchedule:
    return NoiseSchedule(ScheduleConfig(solver=solver, **settings))


def through(sampler: Sampler, velocity: Velocity) -> Tensor:
    while not sampler.done:
        sampler.step(velocity(sampler.x, sampler.sigma))
    return sampler.x


def gaussian(x: Tensor, s: float) -> Tensor:
    """Exact velocity at x where the data are normal."""
    z = (x - (1 - s) * 0.7) / _variance(s)
    return s * z - 0.7 - SPREAD**2 * (1 - s) * z


def there(noise: Tensor, s: float) -> Tensor:
    """Where the exact flow brings `noise` at level s."""
    return (1 - s) * 0.7 + math.sqrt(_variance(s)) * noise


def _variance(s: float) -> float:
    return ((1 - s) * SPREAD) ** 2 + s**2


def bent(x: Tensor, s: float) -> Tensor:
    """A velocity as little linear as a network's."""
    return torch.sin(3 * x) + (s - 0.5) * x.cos() + x


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [2, 6])
def test_a_sampler_counts_evaluations_and_lists_its_levels(solver: str, steps: int) -> None:
    x, data = noise(), noise().flip(0)
    sampler = schedule(solver).init_sampler(x, steps, rng())
    assert sampler.evaluations == steps == len(sampler.levels) and torch.equal(sampler.x, x)
    seen, table = [], sampler.level.table
    while not sampler.done:
        assert sampler.level.sigma == sampler.sigma and sampler.level.table == table
        seen.append(sampler.sigma)
        sampler.step((sampler.x - data) / sampler.sigma)
    assert tuple(seen) == sampler.levels and min(seen) > 0 and seen == sorted(seen, reverse=True)
    assert sampler.sigma == sampler.level.sigma == 0
    same_values(sampler.x, data)


def test_euler_is_the_grid_and_its_steps_to_the_bit() -> None:
    flow = schedule("euler", steps=7)
    x, grid = noise(), flow.grid()
    sampler = flow.init_sampler(x)
    assert [*sampler.levels, 0] == grid
    for s, lower in pairwise(grid):
        x = x + (lower - s) * bent(x, s)
        sampler.step(bent(sampler.x, sampler.sigma))
        assert torch.equal(sampler.x, x)


class Recorded(TorchDispatchMode):
    """Notes the name of every tensor operation."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("solver", "settings"), [*((s, {}) for s in SOLVERS), ("euler", {"bf16_sampling": True})]
)
def test_the_loop_makes_no_tensor_of_its_own_and_reads_none(
    solver: str, settings: dict[str, Any]
) -> None:
    sampler = schedule(solver, steps=6, **settings).init_sampler(noise(), rng=rng())
    velocity = noise()
    with Recorded() as recorded:
        while not sampler.done:
            assert sampler.sigma is not None
            sampler.step(velocity)
    assert recorded.names <= {"add", "sub", "mul", "div", "rsub", "select", "slice"}


@pytest.mark.parametrize("solver", SOLVERS)
@float64()
def test_a_run_may_end_on_the_way(solver: str) -> None:
    x, data = noise(), noise().flip(0)
    flow = schedule(solver, steps=8)
    whole = flow.init_sampler(x, rng=rng())
    sampler = flow.init_sampler(x, rng=rng(), until=0.7)
    again = through(sampler, lambda x, s: (x - data) / s)
    assert sampler.sigma == sampler.level.sigma == 0.7
    above = [s for s in whole.nodes if s > 0.7]
    assert list(sampler.nodes) == [*above, 0.7] and sampler.levels[0] == 1
    if solver != "consistency":  # which is on the way with noise of its own
        same_values(again, 0.3 * data + 0.7 * x)
    none = flow.init_sampler(x, until=1.0)
    assert none.done and none.evaluations == 0 and none.sigma == 1 and torch.equal(none.x, x)


def test_a_level_that_is_met_but_for_rounding_is_met() -> None:
    cosmos = schedule("ab2", spacing="karras", sigma_min=0.8, sigma_max=80 / 81, steps=5)
    assert cosmos.init_sampler(noise(), until=0.8).evaluations == 4
    assert schedule("unipc", steps=10).init_sampler(noise(), until=0.3571428571).evaluations == 9


@pytest.mark.parametrize(
    ("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("unipc", 2), ("ab2", 2)]
)
def test_solvers_converge_at_their_order(solver: str, order: int) -> None:
    flow = schedule(solver, shift=1, sigma_max=0.8)
    errors = []
    for steps in (64, 128):
        sampler = flow.init_sampler(noise(), steps, until=0.2)
        sampler.x = there(noise(), 0.8)
        errors.append(float((through(sampler, gaussian) - there(noise(), 0.2)).abs().max()))
    assert math.log2(errors[0] / errors[1]) > order - 0.2 and errors[1] < 1e-2 / order**4


def test_eight_evaluations_are_better_spent_on_midpoints() -> None:
    for shift, times in ((1.0, 43.27), (5.0, 8.16)):
        euler, midpoint = (
            (
                through(schedule(s, shift=shift).init_sampler(wide, 8), gaussian) - there(wide, 0)
            ).abs()
            for s, wide in (("euler", _many()), ("midpoint", _many()))
        )
        assert float(euler.mean() / midpoint.mean()) == pytest.approx(times, abs=0.01)


def _many() -> Tensor:
    return torch.randn(64, 8, dtype=torch.float64, generator=rng())


@pytest.mark.parametrize(("steps", "until"), [(1, 0), (2, 0), (3, 0), (16, 0), (10, 0.5)])
def test_unipc_is_the_one_of_diffusers(steps: int, until: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    sampler = schedule("unipc", steps=steps).init_sampler(noise().float(), until=until)
    reference = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    reference.set_timesteps(sigmas=torch.tensor(sampler.levels, dtype=torch.float64).numpy())
    reference.sigmas[-1] = until
    reference.set_begin_index(0)
    x = noise().float()
    for time, level in zip(reference.timesteps, sampler.levels, strict=True):
        x = reference.step(bent(x, level), time, x).prev_sample
        sampler.step(bent(sampler.x, sampler.sigma))
        same_values(sampler.x, x)  # its levels are float32


@float64()
def test_ab2_is_cosmos_s_multistep() -> None:
    """The published formula on x0, in sigma from 80 to 4, and one evaluation at 4 to finish."""
    flow = schedule("ab2", spacing="karras", sigma_min=0.8, sigma_max=80 / 81, steps=5)
    sampler = flow.init_sampler(noise())
    x, before, levels = 80 * noise(), None, [s / (1 - s) for s in sampler.levels]
    for s, t in pairwise(levels):
        x0 = _x0(x, s)
        if before is None:
            x = (s - t) / s * x0 + t / s * x
        else:
            s_, t_, m_ = (-math.log(level) for level in (s, t, before[0]))
            dt, c2 = t_ - s_, (m_ - s_) / (t_ - s_)
            phi1 = math.expm1(-dt) / -dt
            phi2 = (phi1 - 1) / -dt
            ahead, behind = phi1 - phi2 / c2, phi2 / c2
            x = math.exp(-dt) * x + dt * (ahead * x0 + behind * before[1])
        before = (s, x0)
        sampler.step(bent(sampler.x, sampler.sigma))
        same_values(sampler.x * (1 + t), x)
    sampler.step(bent(sampler.x, sampler.sigma))
    assert sampler.done
    same_values(sampler.x, _x0(x, levels[-1]))


def _x0(x: Tensor, edm: float) -> Tensor:
    """The data that the velocity points to, x and its level written as in EDM."""
    s = edm / (1 + edm)
    return x / (1 + edm) - s * bent(x / (1 + edm), s)


@float64()
def test_consistency_steps_go_to_data_and_back_with_fresh_noise() -> None:
    flow = schedule("consistency", steps=3)
    sampler = flow.init_sampler(noise(), rng=rng())
    again = draw_noise((2, 4, 3, 5), noise(), rng())
    x = noise()
    for i, s in enumerate(sampler.levels):
        data = x - s * bent(x, s)
        sampler.step(bent(sampler.x, sampler.sigma))
        if i < 2:
            x = (1 - sampler.levels[i + 1]) * data + sampler.levels[i + 1] * again[i]
            same_values(sampler.x, x)
    same_values(sampler.x, data)
    with pytest.raises(ValueError, match=r"fresh noise: pass rng=\.\.\."):
        flow.init_sampler(noise())
    assert flow.init_sampler(noise(), steps=1).evaluations == 1


def test_steps_a_solver_cannot_spend_are_refused_at_the_start() -> None:
    with pytest.raises(ValueError, match="midpoint makes two a step: found 3, write 2 or 4"):
        schedule("midpoint").init_sampler(noise(), 3)


def wan_grid(steps: int) -> NoiseSchedule:
    return schedule("unipc", steps=steps, shift=5.0, grid_start=0.999, whole_timesteps=True)


@pytest.mark.parametrize("steps", [4, 16])
def test_wan_s_own_unipc_begins_below_pure_noise_and_announces_whole_timesteps(steps: int) -> None:
    u = torch.linspace(0.999, 0, steps + 1, dtype=torch.float64)
    levels = (5 * u / (1 + 4 * u)).tolist()
    run = wan_grid(steps).init_sampler(noise())
    same_values(run.nodes, levels, 1e-12)
    same_values(run.x, noise(), 0.0)  # the noise itself is whole
    announced = []
    while not run.done:
        announced.append(1000 * run.sigma)
        run.step(bent(run.x, run.sigma))
    assert [round(t, 9) for t in announced] == [float(int(1000 * level)) for level in levels[:-1]]


def test_steps_that_are_not_evaluated_take_the_last_velocity_again() -> None:
    chosen = (0, 1, 3)
    config = {"steps": 6, "shift": 5.0}
    run = schedule("euler", evaluate_steps=chosen, **config).init_sampler(noise())
    x, velocity = noise(), Tensor()
    for place, (s, lower) in enumerate(pairwise(schedule("euler", **config).grid())):
        assert run.reuses_velocity == (place not in chosen)
        velocity = velocity if run.reuses_velocity else bent(run.x, run.sigma)
        run.step(velocity)
        x = x + (lower - s) * velocity
    same_values(run.x, x, 1e-12)


def test_evaluations_that_are_left_out_do_not_count() -> None:
    flow = schedule("euler", steps=6, shift=1.0, evaluate_steps=(0, 1, 5))
    assert flow.init_sampler(noise()).evaluations == 3
    assert flow.init_sampler(noise(), until=0.5).evaluations == 2


def test_evaluate_steps_of_another_number_of_steps_are_refused() -> None:
    flow = schedule("euler", steps=6, evaluate_steps=(0, 1))
    with pytest.raises(ValueError, match=r"of a run of 6 steps, found 4"):
        flow.init_sampler(noise(), steps=4)


@pytest.mark.parametrize("steps", [(), (1, 2), (0, 2, 1), (0, 6)])
def test_evaluations_are_steps_in_order_from_the_first(steps: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="evaluate_steps"):
        ScheduleConfig(steps=6, evaluate_steps=steps)


def test_two_evaluations_a_step_leave_none_out() -> None:
    with pytest.raises(ValueError, match="makes two"):
        ScheduleConfig(solver="heun", steps=6, evaluate_steps=(0, 1))
