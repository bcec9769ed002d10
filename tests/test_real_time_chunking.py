"""A chunk that continues the one before: weights, corrections, clean tokens, and refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from math import e, exp, inf
from typing import Any

import pytest
import torch
from torch import Tensor

from wamkit.acceleration.compile_modules import CompiledPass
from wamkit.config.check import check
from wamkit.config.noise_schedule import ScheduleConfig
from wamkit.config.prefix import guidance_weight, max_guidance, soft_mask, timing_fault
from wamkit.config.spec import PolicySpec
from wamkit.engine.levels import CLEAN, Level, Levels, LevelTable, PrefixLevels
from wamkit.engine.noise_schedule import NoiseSchedule
from wamkit.engine.passes import PassRunner
from wamkit.engine.samplers import SOLVERS
from wamkit.errors import SpecError, WamkitError
from wamkit.interfaces.types import ModelInputs, ModelOutput, NoisyVectors, Prefix, Text
from wamkit.policy.action_prefix import ActionPrefix, add_prefix
from wamkit.policy.actions import Statistics
from wamkit.policy.losses import vector_loss
from wamkit.policy.policy import Policy
from wamkit.policy.prefix_model import with_prefix
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.policy.run_mode import input_signature
from wamkit.testing.batch_independence import take_sample
from wamkit.testing.fixtures import (
    batch_of,
    observation,
    randomize_weights,
    spec_with,
    with_overrides,
)
from wamkit.testing.tolerance import other_values, same_values

Parts = list[tuple[Level | Levels | PrefixLevels, int]]


def spec_for(
    *changes: str, head: str = "mot", paradigm: str = "single_pass", delay: int = 3
) -> PolicySpec:
    """A small policy that learned delays up to `delay`."""
    names = {"backbone": "toy", "action_head": head, "paradigm": paradigm}
    return with_overrides(spec_with(**names), f"actions.max_delay={delay}", *changes)


def policy_of(spec: PolicySpec) -> Policy:
    return randomize_weights(Policy.from_spec(spec))


# Weights --------------------------------------------------------------------------------------


def test_the_soft_mask_is_that_of_the_paper() -> None:
    """H = 8, d = 2, 5 actions are left: c = 3/4, 1/2, 1/4."""
    c = [0.75, 0.5, 0.25]
    assert soft_mask(8, 2, 5, "linear") == pytest.approx([1, 1, *c, 0, 0, 0])
    bent = [x * (exp(x) - 1) / (e - 1) for x in c]
    assert soft_mask(8, 2, 5) == pytest.approx([1, 1, *bent, 0, 0, 0])
    assert soft_mask(8, 2, 5, "ones") == [1, 1, 1, 1, 1, 0, 0, 0]
    assert soft_mask(8, 2, 5, "zeros") == [1, 1, 0, 0, 0, 0, 0, 0]
    assert soft_mask(4, 0, 4, "linear") == pytest.approx([0.8, 0.6, 0.4, 0.2])


def test_guidance_is_the_weight_of_the_paper_at_a_noise_level() -> None:
    for s in (0.1, 0.2, 0.5, 0.7, 0.95):
        t = 1 - s
        paper = (1 - t) / t * (t**2 + (1 - t) ** 2) / (1 - t) ** 2
        assert guidance_weight(s, 5.0) == pytest.approx(min(5.0, paper))
        assert float(guidance_weight(torch.tensor(s), 5.0)) == pytest.approx(min(5.0, paper), 1e-5)
    assert guidance_weight(0.5, 5.0) == 2
    assert guidance_weight(1.0, 5.0) == guidance_weight(0.0, 5.0) == 5
    for n in (2, 3, 4, 5, 10):
        equal = [(1 - i / n, 1 / n) for i in range(n)]
        assert max_guidance(equal) == pytest.approx(min(5, n))
        assert max_guidance(equal, share=2, most=inf) == pytest.approx(2 * n)


def test_a_delay_is_executed_before_and_left_after() -> None:
    assert timing_fault(2, 2, 4) is None and timing_fault(0, 4, 4) is None
    assert "too late" in str(timing_fault(3, 2, 8))
    assert "leave 1 of a chunk of 8" in str(timing_fault(2, 7, 8))


# The model ------------------------------------------------------------------------------------


def inputs_at(x: Tensor, level: Level | Tensor, prefix: Prefix | None) -> ModelInputs:
    """Inputs with actions x [B, N, A] alone."""
    text = Text(torch.zeros(len(x), 1, 2))
    return ModelInputs(text, action=NoisyVectors(x, level), prefix=prefix)


def prefix_of(y: Tensor, weight: Sequence[float], delay: int, **settings: Any) -> Prefix:
    w = torch.tensor(weight).expand(len(y), -1)[..., None]
    return Prefix(y, w, (torch.arange(y.shape[1]) < delay).expand(len(y), -1), **settings)


def linear_model(matrix: Tensor) -> Any:
    """v = M x over the flattened chunk."""

    def model(inputs: ModelInputs, cache: Any = None, keep: Any = ()) -> ModelOutput:
        x = inputs.noisy("action").x
        return ModelOutput(action=(x.flatten(1) @ matrix.T).view_as(x))

    return model


def test_the_guided_velocity_is_that_of_the_closed_form() -> None:
    """Identity: v - w W (Y - x0). Exact: the transposed Jacobian 1 - s M of x0 comes before."""
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 1, 4, 3, generator=rng, dtype=torch.float64)
    matrix, s = torch.randn(12, 12, generator=rng, dtype=torch.float64), 0.3
    weight = soft_mask(4, 1, 3)
    model = linear_model(matrix)
    v = model(inputs_at(x, CLEAN, None)).action
    error = torch.tensor(weight, dtype=torch.float64)[:, None] * (y - (x - s * v))
    w = 1 / (s * (1 - s)) - 2
    for kind, pulled in (
        ("identity", error),
        ("exact", (error.flatten() @ (torch.eye(12) - s * matrix)).view_as(x)),
    ):
        prefix = prefix_of(y, weight, 1, mode="guided", jacobian=kind)
        with torch.no_grad():
            found = with_prefix(model)(inputs_at(x, Level((1.0, s), 1), prefix)).action
        same_values(found, v - w * pulled, 1e-6)
        assert found is not None and not found.requires_grad
        whole = inputs_at(x, torch.full((1,), s), prefix)  # a level of each sample
        with torch.no_grad():
            same_values(with_prefix(model)(whole).action, found, 1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_ends_at_a_frozen_prefix(solver: str) -> None:
    rng = torch.Generator().manual_seed(0)
    noise, y = torch.randn(2, 2, 6, 3, generator=rng)
    model = linear_model(torch.randn(18, 18, generator=rng) / 4)
    prefix = prefix_of(y, soft_mask(6, 2, 2, "ones"), 2, mode="freeze")
    run = NoiseSchedule(ScheduleConfig(steps=6, solver=solver)).init_sampler(noise, rng=rng)  # type: ignore[arg-type]
    while not run.done:
        found = with_prefix(model)(inputs_at(run.x, run.level, prefix)).action
        assert found is not None
        run.step(found)
    same_values(run.x[:, :2], y[:, :2], 1e-5)
    other_values(run.x[:, 2:], y[:, 2:])


def test_a_trained_prefix_is_passed_clean_and_the_rest_noisy() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 4, 3, generator=rng)
    seen: list[NoisyVectors] = []

    def model(inputs: ModelInputs, cache: Any = None, keep: Any = ()) -> ModelOutput:
        seen.append(inputs.noisy("action"))
        return ModelOutput(action=torch.ones_like(x))

    prefix = prefix_of(y, [1, 1, 0, 0], 2)
    found = with_prefix(model)(inputs_at(x, Level((1.0, 0.5), 1), prefix)).action
    assert torch.equal(seen[0].x, torch.cat([y[:, :2], x[:, 2:]], 1))
    assert torch.equal(seen[0].sigma, torch.tensor([[0.0, 0.0, 0.5, 0.5]] * 2))
    assert found is not None
    same_values(found[:, :2], (x - y)[:, :2] / 0.5)  # the velocity that ends at the prefix
    assert torch.equal(found[:, 2:], torch.ones(2, 2, 3))
    with_prefix(model)(inputs_at(x, CLEAN, prefix))
    assert torch.equal(seen[1].x, x), "actions that are known condition others: they stay"


def test_levels_behind_a_prefix_are_entries_of_the_table_of_the_run() -> None:
    run = (1.0, 0.5, 0.25, 0.0)
    clean = torch.tensor([[True, False, False], [True, True, False]])
    prefixed = PrefixLevels((Level(run, 1),), clean)
    parts: Parts = [(CLEAN, 1), (prefixed, 3), (Level(run, 2), 2)]
    table = LevelTable.of(parts, 2, torch.device("cpu"))
    expected = torch.tensor([[0, 0, 0.5, 0.5, 0.25, 0.25], [0, 0, 0, 0.5, 0.25, 0.25]])
    assert torch.equal(table.sigmas[table.index], expected)
    later: Parts = [parts[0], (PrefixLevels((Level(run, 1),), ~clean), 3), parts[2]]
    assert LevelTable.of(later, 2, torch.device("cpu")).key == table.key is not None
    mixed: Parts = [*parts, (torch.tensor([[0.7], [0.6]]), 1)]
    whole = LevelTable.of(mixed, 2, torch.device("cpu"))
    last = torch.tensor([[0.7], [0.6]])
    assert torch.equal(whole.sigmas[whole.index], torch.cat([expected, last], 1))


# Acting ---------------------------------------------------------------------------------------


def test_a_chunk_begins_with_the_actions_of_the_delay() -> None:
    spec = spec_for()
    policy, seen = policy_of(spec), observation(spec)
    plain, values = (policy.act(seen, seed=seed).values for seed in (0, 1))
    for mode in ("trained", "guided", "freeze"):
        given = ActionPrefix(values[:, 1:], 3, mode)
        chunk = policy.act(seen, prefix=given, seed=0).values
        assert torch.equal(chunk[:, :3], values[:, 1:4])
        other_values(chunk[:, 3:], plain[:, 3:], 1e-4)
        none = ActionPrefix(values[:, :0], mode=mode)
        assert torch.equal(policy.act(seen, prefix=none, seed=0).values, plain)
        late = replace(given, delay=0)  # nothing is executed yet
        if mode != "guided":
            assert torch.equal(policy.act(seen, prefix=late, seed=0).values, plain)
    whole = ActionPrefix(values, mode="freeze")
    assert torch.equal(policy.act(seen, prefix=whole, seed=0).values, values)


SHIFTED = {"steps": 3, "shift": 5.0}  # levels 1, 10/11, 5/7 and 0


@pytest.mark.parametrize(
    ("settings", "strides", "most"),
    [
        ({"steps": 2, "shift": 1.0}, [(1, 1 / 2), (1 / 2, 1 / 2)], 2),
        (SHIFTED, [(1, 1 / 11), (10 / 11, 15 / 77), (5 / 7, 5 / 7)], 7 / 5),
        # The weight of the paper is low enough where the longest of ten steps is.
        ({"steps": 10, "shift": 5.0}, None, 5),
        (
            {"steps": 4, "shift": 1.0, "solver": "midpoint"},
            [(1, 1 / 2), (3 / 4, 1 / 2), (1 / 2, 1 / 2), (1 / 4, 1 / 2)],
            2,
        ),
        ({"steps": 2, "shift": 1.0, "solver": "consistency"}, [(1, 1), (1 / 2, 1 / 2)], 1),
        (
            {"steps": 8, "shift": 1.0, "evaluate_steps": [0, 1, 2]},
            [(1, 1 / 8), (7 / 8, 1 / 8), (6 / 8, 6 / 8)],
            4 / 3,
        ),
        ({"steps": 2, "shift": 1.0, "sigma_min": 0.8}, [(1, 0.2), (0.8, 0.8)], 5 / 4),
    ],
)
def test_guidance_is_limited_by_how_far_each_velocity_is_followed(
    settings: Any, strides: list[tuple[float, float]] | None, most: float
) -> None:
    flow = NoiseSchedule(ScheduleConfig.model_validate(settings))
    if strides is not None:
        assert [*sum(flow.strides, ())] == pytest.approx([*sum(strides, ())])
    assert max_guidance(flow.strides) == pytest.approx(most)
    for s, h in flow.strides:
        assert guidance_weight(s, max_guidance(flow.strides)) * h <= 1 + 1e-9


def error_left(settings: dict[str, Any], most: float | None = None) -> tuple[float, float]:
    """What is left of the error of a whole prefix, where the network says the same everywhere.

    And, of Euler's steps, what the closed form says: the product of 1 - w h over the steps.
    """
    flow = NoiseSchedule(ScheduleConfig.model_validate({"sigma_max": 0.999, **settings}))
    beta = max_guidance(flow.strides) if most is None else most
    v = torch.full((1, 1, 1), 0.5, dtype=torch.float64)
    y, noise = torch.ones_like(v), torch.zeros_like(v)
    run = flow.init_sampler(noise, rng=torch.Generator())
    prefix = prefix_of(y, [1.0], 1, mode="guided", max_guidance=beta)

    def model(inputs: ModelInputs, cache: Any = None, keep: Any = ()) -> ModelOutput:
        return ModelOutput(action=v)

    first, closed = y - (run.x - flow.grid()[0] * v), 1.0
    while not run.done:
        if not run.reuses_velocity:
            guided = with_prefix(model)(inputs_at(run.x, run.level, prefix)).action
            assert guided is not None
        run.step(guided)
    for s, h in flow.strides:
        closed *= 1 - guidance_weight(s, beta) * h
    return float((y - run.x) / first), closed


@pytest.mark.parametrize(
    "settings", [{"steps": 5}, SHIFTED, {"steps": 8, "evaluate_steps": [0, 1, 6]}]
)
def test_no_step_moves_a_chunk_beyond_its_prefix(settings: dict[str, Any]) -> None:
    """By default every factor is within [0, 1]; the rule for equal steps let the error grow."""
    left, closed = error_left(settings)
    same_values(left, closed, 1e-9, scale=1.0)
    assert -1e-9 <= left < 1
    assert error_left(SHIFTED, 3.0)[0] < 0
    left, closed = error_left(settings, 1.9)
    same_values(left, closed, 1e-9, scale=1.0)


@pytest.mark.parametrize("shift", [0.2, 1.0, 5.0, 12.0])
@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "consistency"])
def test_corrections_settle_with_every_solver_and_shift(solver: str, shift: float) -> None:
    for steps in (4, 6, 10):
        left, _ = error_left({"steps": steps, "solver": solver, "shift": shift})
        assert abs(left) < 1


def test_a_policy_guides_by_the_longest_step_of_its_schedule() -> None:
    spec = spec_for("schedules.action.steps=3", "schedules.action.shift=5.0")
    policy, seen = policy_of(spec), observation(spec)
    given = ActionPrefix(policy.act(seen, seed=1).values[:, :4], 2)
    inputs = add_prefix(policy, inference_inputs(policy, seen, with_future=False), given, seen)
    assert inputs.prefix is not None and inputs.prefix.max_guidance == pytest.approx(1.4)
    with pytest.raises(WamkitError, match=r"moves the chunk by 2\.07 of its error") as refused:
        policy.act(seen, prefix=replace(given, max_guidance=3.0))
    assert "which is 1.4" in refused.value.hint and "less than 2.8" in refused.value.hint
    assert torch.isfinite(policy.act(seen, prefix=replace(given, max_guidance=2.7)).values).all()


def test_guidance_draws_the_plan_along_and_more_with_a_higher_limit() -> None:
    spec = spec_for()
    policy, seen = policy_of(spec), observation(spec)
    plain, values = (policy.act(seen, seed=seed).values for seed in (0, 1))
    apart = []
    for most in (0.5, 1.4):
        given = ActionPrefix(values, 2, schedule="ones", max_guidance=most)
        chunk = policy.act(seen, prefix=given, seed=0).values
        apart.append(float((chunk - values)[:, 2:].norm()))
    assert apart[1] < apart[0] < float((plain - values)[:, 2:].norm())


def test_a_trained_prefix_acts_in_one_step() -> None:
    spec = spec_for("schedules.action.steps=1")
    policy, seen = policy_of(spec), observation(spec)
    plain = policy.act(seen, seed=0).values
    chunk = policy.act(seen, prefix=ActionPrefix(plain[:, :2] / 2, mode="trained"), seed=0).values
    assert torch.equal(chunk[:, :2], plain[:, :2] / 2)
    other_values(chunk[:, 2:], plain[:, 2:], 1e-4)
    with pytest.raises(WamkitError, match="guided prefix in 1 steps") as refused:
        policy.act(seen, prefix=ActionPrefix(plain[:, :2]), seed=0)
    assert "schedules.action.steps = 3" in str(refused.value.hint)


def test_a_prefix_goes_with_classifier_free_guidance_and_samples_stay_apart() -> None:
    spec = spec_for("schedules.action.guidance_scale=2.0")
    policy, seen = policy_of(spec), observation(spec)
    values = policy.act(seen, seed=[0, 1]).values
    for mode in ("trained", "guided"):
        given = ActionPrefix(values / 2, 2, mode)
        both = policy.act(seen, prefix=given, seed=[0, 1]).values
        alone = take_sample(seen, 1)
        one = policy.act(alone, prefix=replace(given, values=values[1:] / 2), seed=[1]).values
        same_values(both[1:], one)


def test_another_delay_neither_compiles_nor_captures_anew() -> None:
    spec = spec_for("schedules.action.steps=3")
    policy, seen = policy_of(spec), observation(spec)
    values = policy.act(seen, seed=1).values
    given = [ActionPrefix(values, delay, "trained") for delay in (1, 3)]
    eager = [policy.act(seen, prefix=one, seed=0).values for one in given]
    policy.runner = PassRunner(partial(CompiledPass, backend="eager"))
    counts, found = [], []
    for one in given:
        found.append(policy.act(seen, prefix=one, seed=0).values)
        counts.append(int(torch._dynamo.utils.counters["stats"]["unique_graphs"]))
    same_values(found, eager)
    assert counts[0] == counts[1]
    bare = inference_inputs(policy, seen, with_future=False)
    for mode in ("trained", "guided"):
        kinds = [ActionPrefix(values, delay, mode) for delay in (1, 3)]
        marks = {input_signature(add_prefix(policy, bare, one, seen), {}) for one in kinds}
        assert len(marks) == 1 and input_signature(bare, {}) not in marks


def test_relative_actions_are_anchored_to_the_present_state() -> None:
    """A target stays where it is; as a difference it moves against the state."""
    spec = with_overrides(
        spec_for(delay=2),
        "state.size=4",
        'actions.groups=[{name="arm", size=2, kind="relative", state=1}, {name="grip", size=2}]',
    )
    policy, seen = policy_of(spec), observation(spec)
    low, high = (-4.0,) * 4, (4.0,) * 4
    policy.set_statistics({"action": Statistics(low, high, (0.0,) * 4, (2.0,) * 4, low, high)})
    assert seen.state is not None
    rng = torch.Generator().manual_seed(0)
    then, now = torch.randn(2, 2, 4, generator=rng)
    targets = torch.randn(2, 2, 4, generator=rng) / 4
    seen = replace(seen, state=now)
    differences = targets.clone()
    differences[..., :2] -= then[:, None, 1:3]
    expected = targets.clone()
    expected[..., :2] -= now[:, None, 1:3]
    for given in (
        ActionPrefix(targets, mode="trained"),
        ActionPrefix(differences, mode="trained", relative_to=then),
    ):
        inputs = add_prefix(policy, inference_inputs(policy, seen, with_future=False), given, seen)
        assert inputs.prefix is not None
        same_values(inputs.prefix.x[:, :2], expected / 4, 1e-6)
        chunk = policy.act(seen, prefix=given, seed=0).values
        same_values(chunk[:, :2], targets, 1e-6)


# What is refused ------------------------------------------------------------------------------


def test_delays_that_were_not_learned_are_refused() -> None:
    spec = spec_for(delay=2)
    policy, seen = Policy.from_spec(spec), observation(spec)
    values = torch.zeros(2, 3, spec.actions.size)
    with pytest.raises(WamkitError, match="prefix of 3 actions, and it learned delays up to 2"):
        policy.act(seen, prefix=ActionPrefix(values, mode="trained"))
    bare = Policy.from_spec(spec_for(delay=0))
    with pytest.raises(WamkitError, match="it learned no prefix") as refused:
        bare.act(seen, prefix=ActionPrefix(values, mode="trained"))
    assert "actions.max_delay = 3" in str(refused.value.hint)


def test_a_prefix_that_does_not_fit_is_refused() -> None:
    spec = spec_for()
    policy, seen = Policy.from_spec(spec), observation(spec)
    size, steps = spec.actions.size, spec.actions.chunk_size
    for values, message in (
        (torch.zeros(3, 2, size), "2 samples"),
        (torch.zeros(2, 2, size + 1), f"samples of {size} values"),
        (torch.zeros(2, steps + 1, size), f"a chunk has {steps}"),
    ):
        with pytest.raises(WamkitError, match=message):
            policy.act(seen, prefix=ActionPrefix(values, 1))
    with pytest.raises(WamkitError, match="from 2 on that grows"):
        policy.act(seen, prefix=ActionPrefix(torch.zeros(2, 2, size), max_guidance=1e3))
    with pytest.raises(WamkitError, match="not finite"):
        ActionPrefix(torch.full((2, 3), float("nan")))
    with pytest.raises(WamkitError, match="a delay of 4 steps"):
        ActionPrefix(torch.zeros(2, 3), 4)
    with pytest.raises(WamkitError, match="no mode") as refused:
        ActionPrefix(torch.zeros(2, 3), mode="guide")
    assert "guided" in str(refused.value.hint)


def test_values_that_are_predicted_with_the_action_are_free() -> None:
    """The robot never gets them, so a prefix does not hold them; a clean token would need them."""
    groups = 'actions.groups=[{name="arm", size=2}, {name="felt", size=2, kind="state", state=1}]'
    spec = spec_for("state.size=3", groups)
    policy, seen = policy_of(spec), observation(spec)
    values = policy.act(seen, seed=1).values
    assert values.shape[2] == 2
    chunk = policy.act(seen, prefix=ActionPrefix(values, 3), seed=0).values
    assert torch.equal(chunk[:, :3], values[:, :3])
    inputs = inference_inputs(policy, seen, with_future=False)
    held = add_prefix(policy, inputs, ActionPrefix(values, 3), seen).prefix
    assert held is not None
    assert held.weight[..., :2].bool().all() and not held.weight[..., 2:].any()
    with pytest.raises(WamkitError, match="predicts 4 with each action"):
        policy.act(seen, prefix=ActionPrefix(values[:, :2], mode="trained"))


def test_the_exact_jacobian_needs_gradients() -> None:
    spec = spec_for()
    policy, seen = Policy.from_spec(spec), observation(spec)
    given = ActionPrefix(torch.zeros(2, 2, spec.actions.size), jacobian="exact")
    with torch.inference_mode(), pytest.raises(WamkitError, match="inference mode records none"):
        policy.act(seen, prefix=given, seed=0)
    policy.mode = "graph"
    with pytest.raises(WamkitError, match="a CUDA graph of acting"):
        policy.act(seen, prefix=given, seed=0)


def test_the_check_says_what_cannot_learn_a_prefix() -> None:
    half = spec_for().actions.chunk_size // 2
    too_long = spec_for(delay=half)
    assert not check(too_long)
    one_more = too_long.model_copy(
        update={"actions": too_long.actions.model_copy(update={"max_delay": half + 1})}
    )
    (conflict,) = check(one_more)
    assert conflict.between == ("actions.max_delay", "actions.chunk_size")
    assert f"actions.max_delay = {half}" in conflict.hint
    for head, why in (("regression", "features alone"), ("latent_slot", "one latent frame")):
        (conflict,) = check(spec_for(head=head))
        assert why in conflict.why and "actions.max_delay = 0" in conflict.hint


# Learning -------------------------------------------------------------------------------------


def test_delays_are_drawn_from_none_to_the_largest_for_each_sample() -> None:
    spec = spec_for(delay=2)
    policy = Policy.from_spec(spec).train()
    noted: list[tuple[ModelInputs, ModelOutput]] = []
    model = policy.model

    def listen(inputs: ModelInputs, **given: Any) -> ModelOutput:
        noted.append((inputs, found := model(inputs, **given)))
        return found

    policy.model = listen  # type: ignore[method-assign, assignment]
    batch = batch_of(spec, size=16)
    losses = policy.loss(batch, seed=0)
    noisy, out = noted[0]
    clean = training_inputs(policy, batch).noisy("action").x
    levels = noisy.noisy("action").sigma
    delays = (levels == 0).sum(1)
    assert set(delays.tolist()) == {0, 1, 2}
    place = torch.arange(spec.steps)
    held = place < delays[:, None]
    assert torch.equal(levels == 0, held)
    assert torch.equal(noisy.noisy("action").x[held], clean[held])
    # Each sample's error is the mean over its own noisy actions.
    rng = torch.Generator().manual_seed(0)
    _, target = policy.paradigm.add_noise(training_inputs(policy, batch), policy.schedules, rng)
    assert out.action is not None
    error = (out.action - target["action"].velocity).square() * ~held[..., None]
    mean = error.sum((1, 2)) / (~held).sum(1) / spec.actions.size
    same_values(losses.parts["action"], (mean * target["action"].weight).mean(), 1e-5)


def test_a_share_of_samples_draws_a_delay_and_the_others_have_none() -> None:
    """With a share of 0.25 and delays 0, 1, 2 a sixth of the samples has a prefix."""
    policy = Policy.from_spec(spec_for("actions.delay_share=0.25", delay=2)).train()
    noted: list[ModelInputs] = []
    model = policy.model

    def listen(inputs: ModelInputs, **given: Any) -> ModelOutput:
        noted.append(inputs)
        return model(inputs, **given)  # type: ignore[no-any-return]

    policy.model = listen  # type: ignore[method-assign, assignment]
    policy.loss(batch_of(policy.spec, size=240), seed=0)
    delays = (noted[0].noisy("action").sigma == 0).sum(1)
    counts = torch.bincount(delays, minlength=3).tolist()
    assert len(counts) == 3 and 185 <= counts[0] <= 215 and min(counts[1:]) >= 8
    with pytest.raises(SpecError, match="max_delay = 0 learns none"):
        spec_for("actions.delay_share=0.5", delay=0)


def test_a_policy_without_delays_learns_as_ever() -> None:
    spec = spec_for(delay=0)
    policy = Policy.from_spec(spec).train()
    batch = batch_of(spec)
    rng = torch.Generator().manual_seed(0)
    noisy, target = policy.paradigm.add_noise(training_inputs(policy, batch), policy.schedules, rng)
    velocity = policy.model(noisy).action
    assert velocity is not None
    expected = vector_loss(velocity, target["action"], torch.ones_like(velocity))
    same_values(policy.loss(batch, seed=0).parts["action"], expected.detach(), 1e-6)


def test_a_prefix_decides_between_two_plans_and_best_where_it_was_learned() -> None:
    """All actions of a chunk are 0.5 or all are -0.5, and nothing that is seen says which."""
    settings = "paradigm.co_training=false", "schedules.action.shift=1.0"
    spec = spec_for(*settings, "schedules.action.loss_weighting=none")
    policy = Policy.from_spec(spec).train()
    learned = [p for p in policy.parameters() if p.requires_grad]
    adam = torch.optim.Adam(learned, lr=3e-3)
    rng, batch = torch.Generator().manual_seed(0), batch_of(spec, size=16)
    plans = torch.full_like(batch.actions, 0.5)
    for step in range(120):
        sign = torch.randint(0, 2, (16, 1, 1), generator=rng) * 2 - 1
        adam.zero_grad()
        policy.loss(replace(batch, actions=sign * plans), seed=step).total.backward()
        adam.step()
    policy.eval()
    seen = observation(spec, batch=16)

    def follows(mode: str) -> float:
        """The mean of the actions behind the prefix, in its direction; 0.5 is all the way."""
        chunks = [
            sign
            * policy.act(seen, prefix=ActionPrefix(sign * plans[:, :2], mode=mode), seed=0).values
            for sign in (1, -1)
        ]
        return float(torch.stack(chunks)[:, :, 2:].mean())

    trained, guided, frozen = follows("trained"), follows("guided"), follows("freeze")
    assert trained > 0.35 and trained > guided > frozen, (trained, guided, frozen)
