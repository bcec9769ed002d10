"""Noise schedules reproduce the published numbers."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from wamkit.config.noise_schedule import ScheduleConfig
from wamkit.config.spec import override, parse, read
from wamkit.engine.noise_schedule import NoiseSchedule, draw_noise, shift_sigma
from wamkit.errors import WamkitError
from wamkit.testing.parity import same_values

COSMOS: dict[str, Any] = {
    "timestep_sampling": "lognormal_mix",
    "spacing": "karras",
    "sigma_min": 0.8,
    "sigma_max": 80 / 81,
}
LTX: dict[str, Any] = {
    "timestep_sampling": "logit_normal",
    "shift": "tokens",
    "sampling_args": {"stretch": True, "uniform": 0.1},
    "sigma_min": 0.1,
}


def drawn(count: int, tokens: int | None = None, **settings: Any) -> Tensor:
    """So many training levels [count]."""
    schedule = NoiseSchedule(ScheduleConfig(**settings), tokens)
    return schedule.sample((count,), torch.zeros(()), torch.Generator().manual_seed(0))


def normal_below(z: float) -> float:
    """Share of a standard normal below z."""
    return (1 + math.erf(z / math.sqrt(2))) / 2


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
    noise = draw_noise((2, 3), data, rng)
    x, grid = noise, schedule.grid()
    for sigma, lower in pairwise(grid):
        x = x + (lower - sigma) * schedule.velocity(data, noise)
    same_values(x, data, 1e-6)


def test_noise_is_added_in_float32_and_drawn_from_the_generator() -> None:
    schedule = NoiseSchedule(ScheduleConfig(loss_weighting="none"))
    x = torch.ones(2, 3, 4)
    sigma = torch.tensor([0.25, 1.0])
    out = schedule.add(x, torch.zeros_like(x), sigma)
    assert out[0].unique().tolist() == [0.75] and out[1].unique().tolist() == [0.0]
    one, two = (schedule.sample((1000,), x, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1 and one.median() > 0.75
    assert schedule.weight(sigma).tolist() == [1, 1]


def test_what_is_left_open_samples_as_ever() -> None:
    u = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(drawn(1000), shift_sigma(u, 5.0))


def test_five_cosmos_steps_are_the_published_grid() -> None:
    schedule = NoiseSchedule(ScheduleConfig(**COSMOS, steps=5))
    edm = [s / (1 - s) for s in schedule.grid()]
    assert edm == pytest.approx([80, 42.29, 20.97, 9.62, 4.00, 0], abs=5e-3)
    assert schedule.grid(1) == pytest.approx([80 / 81, 0])


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_the_hybrid_density_is_cosmos_s(scale: float) -> None:
    sigma = drawn(200_000, **COSMOS, sampling_args={"scale": scale}).double()
    edm = sigma / (1 - sigma)
    for level in (1.0, 4.0, 20.0, 85.0):
        lognormal = normal_below(math.log(level / 4) / 1.2)
        below = 0.7 * lognormal + 0.3 * (level - 1) / 84
        assert float((edm < scale * level).double().mean()) == pytest.approx(below, abs=4e-3)


@pytest.mark.parametrize(
    ("tokens", "mu"), [(1024, 0.95), (4096, 2.05), (360, 0.7122), (9000, 2.05)]
)
def test_a_clip_of_more_tokens_is_noisier_as_in_ltx(tokens: int, mu: float) -> None:
    plain = (
        drawn(200_000, tokens, timestep_sampling="logit_normal", shift="tokens").double().logit()
    )
    assert float(plain.mean()) == pytest.approx(mu, abs=0.01)
    assert float(plain.std()) == pytest.approx(1, abs=0.01)
    low, high, middle = (1 / (1 + math.exp(-mu - z)) for z in (-2.5758, 3.0902, 0))
    stretched = {"shift": "tokens", "sampling_args": {"stretch": True}}
    wide = drawn(200_000, tokens, timestep_sampling="logit_normal", **stretched)
    assert float(wide.median()) == pytest.approx((middle - low) / (high - low), abs=4e-3)
    assert wide.min() >= 0 and float((wide == 1).float().mean()) == pytest.approx(1e-3, abs=5e-4)
    mixed = drawn(200_000, tokens, **LTX)
    below = 0.9 * float((wide < 0.3).float().mean()) + 0.1 * 0.3
    assert float((mixed < 0.3).float().mean()) == pytest.approx(below, abs=4e-3)


@pytest.mark.parametrize("steps", [1, 8])
def test_ltx_levels_are_those_of_diffusers(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

    reference = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, shift_terminal=None if steps == 1 else 0.1
    )
    levels = torch.linspace(1, 1 / steps, steps).tolist()
    reference.set_timesteps(sigmas=levels, mu=calculate_shift(2640, 1024, 4096, 0.95, 2.05))
    grid = NoiseSchedule(ScheduleConfig(**LTX), tokens=2640).grid(steps)
    same_values(grid, reference.sigmas.tolist(), 1e-6)


def test_indexed_levels_are_a_thousand_without_the_last() -> None:
    levels = drawn(20_000, timestep_sampling="indexed").unique()
    grid = shift_sigma(torch.linspace(1, 0, 1001, dtype=torch.float64)[:-1], 5).flip(0)
    assert len(levels) == 1000
    same_values(levels, grid.float(), 1e-5)


def test_densities_have_their_moments() -> None:
    def mean(**settings: Any) -> float:
        return float(drawn(200_000, **settings).double().mean())

    assert mean(timestep_sampling="beta", shift=1) == pytest.approx(3 / 4, abs=2e-3)
    assert mean(
        timestep_sampling="beta", shift=1, sampling_args={"alpha": 1.5, "beta": 2.5}
    ) == pytest.approx(1.5 / 4, abs=2e-3)
    assert mean(timestep_sampling="sqrt") == pytest.approx(0.001 + 0.999 * 3 / 5, abs=2e-3)
    assert mean(
        timestep_sampling="logit_normal", shift=1, sampling_args={"mean": 0.0}
    ) == pytest.approx(0.5, abs=2e-3)
    assert mean(timestep_sampling="pure_noise") == 1


DENSITIES: list[dict[str, Any]] = [
    {"timestep_sampling": name}
    for name in (
        "uniform",
        "indexed",
        "logit_normal",
        "lognormal_mix",
        "beta",
        "sqrt",
        "pure_noise",
    )
]


@pytest.mark.parametrize("settings", [*DENSITIES, LTX], ids=lambda s: str(s["timestep_sampling"]))
@pytest.mark.parametrize("rounded", [False, True])
def test_levels_lie_between_data_and_noise_and_follow_the_seed(
    settings: dict[str, Any], rounded: bool
) -> None:
    one, two = (drawn(5000, 2000, **settings, bf16_timesteps=rounded) for _ in range(2))
    assert torch.equal(one, two) and one.dtype == torch.float32
    assert one.min() >= 0 and one.max() <= 1
    if rounded:
        assert torch.equal((one * 1000).bfloat16().float() / 1000, one)
    weights = NoiseSchedule(ScheduleConfig(**settings), 2000).weight(one)
    assert weights.isfinite().all() and weights.min() >= 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shift": 0}, 'a shift is a number above 0, or "tokens"'),
        ({"shift": "many"}, 'a shift is a number above 0, or "tokens"'),
        (
            {"solver": "heun", "steps": 5},
            "steps counts network evaluations, and heun makes two a step: found 5, write 4 or 6",
        ),
        ({"solver": "midpoint", "steps": 1}, "found 1, write 2 or 2"),
        (
            {"sampling_args": {"scale": 3.0}},
            "scale belongs to timestep_sampling lognormal_mix, not to uniform; "
            "leave it out or change timestep_sampling",
        ),
        (
            {"timestep_sampling": "beta", "sampling_args": {"mean": 0.0}},
            "mean belongs to timestep_sampling logit_normal and lognormal_mix, not to beta",
        ),
        (
            {"sigma_min": 0.9, "sigma_max": 0.8},
            "sigma_min must be below sigma_max, found 0.9 and 0.8",
        ),
        (
            {"spacing": "karras"},
            "karras spacing needs 0 < sigma_min < sigma_max < 1, found 0.0 and 1.0; "
            "Cosmos's are sigma_min = 0.8 and sigma_max = 0.98765432",
        ),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as found:
        ScheduleConfig(**settings)
    assert message in str(found.value) and found.value.error_count() == 1


def test_tokens_are_asked_for_where_there_are_none() -> None:
    with pytest.raises(WamkitError) as found:
        NoiseSchedule(ScheduleConfig(shift="tokens"))
    assert found.value.what == (
        'shift = "tokens" needs the number of tokens, which this modality has not'
    )
    assert found.value.hint == "write a number, such as shift = 5.0"


def test_a_spec_states_all_of_it_and_reads_back() -> None:
    raw = override(
        read(Path(__file__).parent.parent / "examples" / "toy.toml"),
        [
            "schedules.video.shift=tokens",
            "schedules.video.timestep_sampling=logit_normal",
            "schedules.action.timestep_sampling=lognormal_mix",
            "schedules.action.sampling_args.band=[2.0, 50.0]",
            "schedules.value.timestep_sampling=pure_noise",
        ],
    )
    spec = parse(raw)
    assert parse(spec.dump()) == spec
    assert spec.schedules.next_state is None and spec.schedules.value is not None
    assert spec.schedules.action.setting("band") == (2.0, 50.0)
    assert spec.schedules.action.setting("uniform") == 0.3
