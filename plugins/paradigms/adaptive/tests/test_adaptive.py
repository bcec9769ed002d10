"""Fast where proposals agree, slow where they do not: the two ends, the middle, and the budget."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_adaptive import Adaptive

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse
from wamkit.errors import WamkitError
from wamkit.policy.cost import cost
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import observation, spec_with
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

PLAN = {"name": "planning", "inner": "conditional", "proposals": 2, "futures": 1, "values": 1}
WAYS: list[dict[str, Any]] = [
    {},
    {"inner": PLAN},
    {"inner": {"name": "joint", "refresh": [0]}, "slow": {"refresh": "every"}},
]
ways = pytest.mark.parametrize("way", WAYS, ids=["idm", "planning", "joint"])


def spec_for(way: dict[str, Any], **settings: Any) -> PolicySpec:
    spec = spec_with(Adaptive(**way), backbone="toy", action_head="mot")
    return spec.model_copy(update={"paradigm": spec.paradigm.model_copy(update=settings)})


def direct(policy: Policy, kind: str, seed: int = 0) -> torch.Tensor:
    """Normalized actions of one way alone."""
    inputs = inference_inputs(policy, observation(policy.spec))
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        out = getattr(policy.paradigm, kind).act(policy.model, inputs, policy.schedules, rng)
    return policy.to_action_chunk(out, observation(policy.spec)).values


@ways
def test_both_ends_are_exactly_the_two_ways(way: dict[str, Any]) -> None:
    for threshold, kind in ((0.0, "slow"), (inf, "fast")):
        policy = Policy.from_spec(spec := spec_for(way, threshold=threshold))
        chunk = policy.act(observation(spec), seed=0)
        assert torch.equal(chunk.values, direct(policy, kind))
        assert chunk.notes["deliberated"].tolist() == [kind == "slow"] * 2
    for forced, kind in ((True, "slow"), (False, "fast")):
        policy = Policy.from_spec(spec := spec_for(way))
        chunk = policy.act(observation(spec), seed=0, deliberate=forced)
        assert torch.equal(chunk.values, direct(policy, kind))


@ways
@float64()
def test_thresholds_beyond_all_disagreement_come_to_the_same(way: dict[str, Any]) -> None:
    for threshold, kind in ((1e-12, "slow"), (1e12, "fast")):
        policy = Policy.from_spec(spec := spec_for(way, threshold=threshold))
        chunk = policy.act(observation(spec), seed=0)
        same_values(chunk.values, direct(policy, kind))
        assert chunk.notes["disagreement"].shape == (2,)


@ways
@float64()
def test_only_samples_that_disagree_deliberate(way: dict[str, Any]) -> None:
    policy = Policy.from_spec(spec := spec_for(way))
    apart = policy.act(observation(spec), seed=0).notes["disagreement"]
    between = float(apart.mean())
    policy = Policy.from_spec(spec_for(way, threshold=between))
    sizes: list[int] = []

    def model(inputs: Any, cache: Any = None, keep: Any = ()) -> Any:
        sizes.append(inputs.text.tokens.shape[0])
        return policy.model(inputs, cache=cache, keep=keep)

    inputs, rng = inference_inputs(policy, observation(spec)), torch.Generator().manual_seed(0)
    with torch.no_grad():
        out = policy.paradigm.act(model, inputs, policy.schedules, rng)
    hard = out.notes["deliberated"]
    assert hard.tolist() == (apart > between).tolist() and hard.sum() == 1
    # Observed: two samples, once. Then two proposals of each, then whatever the hard one takes.
    assert sizes[0] == 2 and sizes[1] == 4 and sizes.count(2) <= sizes.count(1) + 4
    values = policy.to_action_chunk(out, observation(spec)).values
    easy = ~hard
    same_values(values[easy], direct(policy, "fast")[easy])
    other_values(values[hard], direct(policy, "fast")[hard], 0.0001)


@ways
@torch.no_grad()
@float64()
def test_caching_changes_nothing(way: dict[str, Any]) -> None:
    policy = Policy.from_spec(spec := spec_for(way, threshold=1e-12))
    inputs, found = inference_inputs(policy, observation(spec)), []
    for model in (policy.model, uncached(policy.model)):
        rng = torch.Generator().manual_seed(0)
        found.append(policy.paradigm.act(model, inputs, policy.schedules, rng))
    same_values(found[0].action, found[1].action)
    one, two = (out.notes["disagreement"] for out in found)
    same_values(one, two)


@float64()
def test_disagreement_is_the_mean_standard_deviation_of_the_proposals() -> None:
    policy = Policy.from_spec(spec := spec_for({}, proposals=3))
    inputs = inference_inputs(policy, observation(spec))
    paradigm: Any = policy.paradigm
    seen: list[torch.Tensor] = []
    act = paradigm.fast.act

    def watched(*given: Any) -> Any:
        out = act(*given)
        seen.append(out.action)
        return out

    paradigm.fast.act = watched
    with torch.no_grad():
        out = paradigm.act(policy.model, inputs, policy.schedules, torch.Generator().manual_seed(0))
    x = seen[0].unflatten(0, (3, 2))
    expected = ((x - x.mean(0)).square().sum(0) / 2).sqrt().mean((1, 2))
    same_values(out.notes["disagreement"], expected)


def test_calibration_keeps_the_budget_and_is_saved(tmp_path: Path) -> None:
    policy = Policy.from_spec(spec := spec_for({}))
    paradigm: Any = policy.paradigm
    seen = [observation(spec, seed=seed) for seed in range(4)]
    shares = []
    for budget in (2.0, 3.0, 100.0):
        report = paradigm.calibrate(policy, seen, budget)
        assert set(report) == {"threshold", "share", "passes", "work"}
        assert report["work"] <= budget + 1e-6
        shares.append(report["share"])
        assert policy.spec.paradigm.threshold == report["threshold"]  # type: ignore[attr-defined]
    assert shares == sorted(shares) and shares[-1] == 1 and shares[0] < 1
    report = paradigm.calibrate(policy, seen, 3.0)
    policy.save(tmp_path / "policy")
    again: Any = Policy.load(tmp_path / "policy").spec.paradigm
    assert again.threshold == report["threshold"]
    chunks = [policy.act(o, seed=i) for i, o in enumerate(seen)]
    hard = torch.cat([chunk.notes["deliberated"] for chunk in chunks]).float()
    assert float(hard.mean()) == pytest.approx(report["share"])


def test_a_budget_below_the_proposals_is_refused() -> None:
    policy = Policy.from_spec(spec := spec_for({}))
    with pytest.raises(WamkitError) as caught:
        policy.paradigm.calibrate(policy, [observation(spec)], 1.0)  # type: ignore[attr-defined]
    assert caught.value.what == "2 fast proposals alone cost 1.75 times one, the budget is 1"
    assert caught.value.hint == "allow at least 1.75, or set paradigm.proposals lower"
    policy.paradigm.calibrate(policy, [observation(spec)], 1.75)  # type: ignore[attr-defined]
    with pytest.raises(WamkitError, match="no observations to calibrate with"):
        policy.paradigm.calibrate(policy, [], 3.0)  # type: ignore[attr-defined]


def test_the_program_states_what_only_some_samples_run() -> None:
    spec = spec_for({})
    steps = [stage.does for stage in spec.paradigm.program(spec)]
    assert steps[0] == "prefill the observation"
    assert steps[1].endswith("(2 fast proposals in one batch)")
    assert all(text.endswith("(for the share that deliberates)") for text in steps[2:])
    assert sum(text.startswith("prefill the observation") for text in steps) == 1


def test_either_way_can_be_counted_without_a_number() -> None:
    spec = spec_for({})
    fast, slow = (cost(spec, **act_options) for act_options in spec.paradigm.variants.values())
    assert fast.passes < slow.passes and fast.operations < slow.operations


@ways
def test_a_spec_with_inner_tables_survives_being_written(way: dict[str, Any]) -> None:
    for threshold in (0.0, 0.3, inf):
        spec = spec_for(way, threshold=threshold)
        assert parse(spec.dump()) == spec


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"fast": {"untill": 1}}, "paradigm.fast.untill", "no such key"),  # codespell:ignore untill
        ({"slow": {"stop_sigma": "first_frame"}}, "paradigm", "fast and slow are the same"),
        ({"inner": "single_pass"}, "paradigm", "change a setting of single_pass in one of them"),
        (
            {"inner": "joint", "slow": {"attends": "mutual"}},
            "paradigm",
            "slow changes who sees whom",
        ),
        ({"inner": {"name": "idm", "stop_sigma": 7}}, "paradigm.inner.stop_sigma", "stop_sigma"),
    ],
)
def test_mistakes_are_reported_where_they_stand(
    settings: dict[str, Any], place: str, message: str
) -> None:
    raw = spec_for({}).dump()
    raw["paradigm"] = {"name": "adaptive", **settings}
    (conflict,) = check(raw)
    assert conflict.between == (place,) and message in conflict.why


def test_a_head_that_regresses_never_disagrees() -> None:
    spec = spec_for({})
    head = registry().parts["action_head"]["regression"]().tiny()  # type: ignore[call-arg]
    conflicts = check(spec.model_copy(update={"action_head": head}))
    assert any("they would always agree" in conflict.why for conflict in conflicts)
    inner = spec.paradigm.inner  # type: ignore[attr-defined]  # what the hint says
    assert check(spec.model_copy(update={"action_head": head, "paradigm": inner})) == []
