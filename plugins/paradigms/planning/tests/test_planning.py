"""Best of N: what is proposed, how it is judged, and what is taught."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from wamkit_planning import Planning
from wamkit_planning.paradigm import aggregate_values

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse
from wamkit.engine.kv_cache import KVCache
from wamkit.errors import WamkitError
from wamkit.interfaces.batched_proposals import proposal_generators, sample_indices
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

INNERS: list[Any] = ["conditional", "single_pass", "idm", {"name": "joint", "attends": "mutual"}]
named = pytest.mark.parametrize(
    "inner", INNERS, ids=["conditional", "single_pass", "idm", "mutual joint"]
)


def spec_for(inner: Any = "conditional", head: str = "mot", **settings: Any) -> PolicySpec:
    spec = spec_with(Planning(inner=inner), backbone="toy", action_head=head)
    return spec.model_copy(update={"paradigm": spec.paradigm.model_copy(update=settings)})


@named
def test_one_proposal_is_what_the_inner_paradigm_does(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner))
    seen = observation(spec)
    alone = policy.act(seen, seed=3, proposals=1).values
    paradigm: Any = policy.paradigm
    inputs = paradigm._own(inference_inputs(policy, seen))
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        direct = paradigm.inner.act(policy.model, inputs, policy.schedules, rng)
    assert torch.equal(alone, policy.to_action_chunk(direct, seen).values)


@named
@torch.no_grad()
@float64()
def test_the_first_proposal_gets_the_noise_it_would_get_alone(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner))
    paradigm: Any = policy.paradigm
    inputs = paradigm._own(inference_inputs(policy, observation(spec)))
    draws = proposal_generators(torch.Generator().manual_seed(3), 3)
    many = paradigm.inner.act(
        policy.model, inputs.pick(sample_indices(inputs, 3)), policy.schedules, draws
    )
    rng = torch.Generator().manual_seed(3)
    direct = paradigm.inner.act(policy.model, inputs, policy.schedules, rng)
    proposals = many.action.unflatten(0, (3, 2))
    same_values(proposals[0], direct.action)
    other_values(proposals[1], proposals[2])


@named
@torch.no_grad()
@float64()
def test_caching_changes_nothing(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner))
    inputs, found = inference_inputs(policy, observation(spec)), []
    for model in (policy.model, uncached(policy.model)):
        rng = torch.Generator().manual_seed(0)
        found.append(policy.paradigm.act(model, inputs, policy.schedules, rng))
    same_values(found[0].action, found[1].action)
    assert found[0].value is not None
    same_values(found[0].value, found[1].value)


@torch.no_grad()
@float64()
def test_the_best_scored_proposal_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.from_spec(spec := spec_for(proposals=3))
    paradigm: Any = policy.paradigm
    scores = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.3, 0.9])  # sample 0: 0.1 0.5 0.3; 1: 0.9 0.2 0.9
    monkeypatch.setattr(paradigm, "_scores", lambda *given: scores)
    inputs = inference_inputs(policy, observation(spec))
    rng = torch.Generator().manual_seed(0)
    out = paradigm.act(policy.model, inputs, policy.schedules, rng)
    draws = proposal_generators(torch.Generator().manual_seed(0), 3)
    many = paradigm.inner.act(
        policy.model, inputs.pick(sample_indices(inputs, 3)), policy.schedules, draws
    )
    same_values(out.action, many.action[[2, 1]])
    assert out.value.tolist() == pytest.approx([0.5, 0.9])
    same_values(out.notes["spread"], scores.unflatten(0, (3, 2)).std(0))


@named
@torch.no_grad()
def test_what_is_observed_passes_once_and_the_rest_as_programmed(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner, proposals=3))
    sizes: list[int] = []

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        sizes.append(inputs.text.tokens.shape[0])
        return policy.model(inputs, cache=cache, keep=keep)

    inputs = inference_inputs(policy, observation(spec))
    policy.paradigm.act(model, inputs, policy.schedules, torch.Generator().manual_seed(0))
    assert sizes[0] == 2 and min(sizes[1:]) == 6  # two samples, then three proposals of each
    assert len(sizes) == sum(stage.passes for stage in spec.paradigm.program(spec))
    futures = spec.paradigm.futures or 1  # type: ignore[attr-defined]
    assert max(sizes) == 6 * futures * 2


@float64()
def test_scores_are_the_mean_or_that_of_a_majority_that_succeeds() -> None:
    values = torch.tensor([[0.8, -1.0, 0.5], [0.6, -1.0, -0.95], [-1.0, 0.9, -1.0]])
    same_values(aggregate_values(values, "mean"), values.mean(0))
    # Two of three succeed; one of three does; one of three does.
    same_values(aggregate_values(values, "majority"), torch.tensor([0.7, -1.0, -1.0]))
    even = torch.tensor([[0.5], [-1.0]])  # half is enough
    assert aggregate_values(even, "majority").tolist() == [0.5]


@pytest.mark.parametrize("inner", INNERS[1:], ids=["single_pass", "idm", "mutual joint"])
def test_samples_that_teach_the_value_are_clean_but_for_it(inner: Any) -> None:
    spec = spec_for(inner, value_share=0.5)
    policy = Policy.from_spec(spec)
    inputs = training_inputs(policy, batch_of(spec, size=8))
    rng = torch.Generator().manual_seed(1)
    noisy, target = policy.paradigm.add_noise(inputs, policy.schedules, rng)
    teaches = target["value"].weight > 0
    assert 0 < teaches.sum() < 8
    assert (noisy.noisy("value").sigma[~teaches] == 1).all()
    for part in ("action", "video"):
        ours, theirs = noisy.take(part), inputs.take(part)
        assert torch.equal(ours[teaches], theirs[teaches])
        assert not torch.equal(ours[~teaches], theirs[~teaches])
        weight = target[part].weight.reshape(8, -1)
        assert not weight[teaches].any() and weight[~teaches].all()
    assert noisy.clip is not None
    assert not noisy.clip.sigma[:, noisy.clip.where("target")][teaches].any()


@pytest.mark.parametrize("inner", INNERS[1:], ids=["single_pass", "idm", "mutual joint"])
@torch.no_grad()
@float64()
def test_the_value_changes_nothing_of_what_the_inner_paradigm_predicts(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner))
    inputs = training_inputs(policy, batch_of(spec))
    rng = torch.Generator().manual_seed(1)
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, rng)
    one, two = policy.model(noisy), policy.model(noisy.without("value"))
    assert one.value is not None and two.value is None
    same_values(one.take("action", noisy), two.take("action", noisy))
    same_values(one.take("video", noisy), two.take("video", noisy))


@named
def test_gradients_of_the_value_reach_head_and_backbone(inner: Any) -> None:
    policy = Policy.from_spec(spec := spec_for(inner, value_share=0.9)).train()
    policy.loss(batch_of(spec, size=4), seed=0).total.backward()
    decoder = dict(policy.action_head.named_parameters())["value_decoder.weight"]
    assert decoder.grad is not None and decoder.grad.abs().max() > 0
    assert any(p.grad is not None and p.grad.any() for p in policy.backbone.parameters())  # type: ignore[attr-defined]


@torch.no_grad()
def test_proposals_are_made_under_guidance_too() -> None:
    raw = spec_for().dump()
    raw["schedules"]["action"]["guidance_scale"] = 2.0
    policy = Policy.from_spec(spec := parse(raw))
    chunk = policy.act(observation(spec), seed=0)
    assert chunk.values.isfinite().all() and set(chunk.notes) == {"value", "spread"}


@named
def test_a_spec_with_an_inner_table_survives_being_written(inner: Any) -> None:
    spec = spec_for(inner)
    assert parse(spec.dump()) == spec


def test_mistakes_in_the_inner_table_are_reported_where_they_stand() -> None:
    raw = spec_for().dump()
    raw["paradigm"]["inner"] = {"name": "joint", "attend": "mutual"}
    (conflict,) = check(raw)
    assert conflict.between == ("paradigm.inner.attend",)
    assert (conflict.why, conflict.hint) == ("no such key", "did you mean 'attends'?")


def test_futures_are_refused_where_they_do_not_depend_on_the_action() -> None:
    raw = spec_for("single_pass").dump()
    raw["paradigm"]["futures"] = 3
    (conflict,) = check(raw)
    assert conflict.between == ("paradigm.futures", "paradigm.inner")
    assert "the target frames of single_pass do not see the action" in conflict.why
    del raw["paradigm"]["futures"]  # what the hint says
    assert check(raw) == []


def test_a_head_that_regresses_makes_no_proposals() -> None:
    spec = spec_for("single_pass")
    head = registry().parts["action_head"]["regression"]().tiny()  # type: ignore[call-arg]
    conflicts = check(spec.model_copy(update={"action_head": head}))
    assert any("all proposals would be the same" in conflict.why for conflict in conflicts)
    inner = spec.paradigm.inner  # type: ignore[attr-defined]  # what the hint says
    assert check(spec.model_copy(update={"action_head": head, "paradigm": inner})) == []


def test_a_number_of_proposals_is_a_count() -> None:
    policy = Policy.from_spec(spec := spec_for())
    with pytest.raises(WamkitError, match="0 proposals"):
        policy.act(observation(spec), proposals=0)
