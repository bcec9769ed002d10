"""Cosmos Policy's samples: what is given, what is learned, and at which levels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_conditional import Conditional

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse, parse_part
from wamkit.errors import WamkitError
from wamkit.interfaces.types import DenoisingTargets, ModelInputs
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs
from wamkit.testing.fixtures import batch_of, noised_sample, observation, spec_with
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

PURE: dict[str, dict[str, Any]] = {
    "policy": {"policy": 1.0, "world": 0.0, "value": 0.0},
    "world": {"policy": 1e-9, "world": 1 - 1e-9, "value": 0.0},
    "value": {"policy": 1e-9, "world": 0.0, "value": 1 - 1e-9},
    "inverse": {"policy": 1e-9, "world": 0.0, "value": 0.0, "inverse": 1 - 1e-9},
}
"""Shares that make (nearly) every sample of one kind."""


def spec_for(head: str = "mot", **settings: Any) -> PolicySpec:
    return spec_with(Conditional(**settings), backbone="toy", action_head=head)


def samples(spec: PolicySpec) -> tuple[ModelInputs, ModelInputs, DenoisingTargets]:
    return noised_sample(Policy.from_spec(spec), size=4)


def levels(inputs: ModelInputs) -> dict[str, list[float]]:
    """The level of each part in each sample."""
    assert inputs.clip is not None
    found = {"video": inputs.clip.sigma[:, -1].tolist()}
    return found | {
        p: inputs.noisy(p).sigma.flatten().tolist() for p in inputs.parts if p != "video"
    }


@pytest.mark.parametrize(
    ("kind", "given", "learned"),
    [
        ("policy", set(), {"action", "video", "next_state", "value"}),
        ("world", {"action"}, {"video", "next_state", "value"}),
        ("value", {"action", "video", "next_state"}, {"value"}),
        ("inverse", {"video", "next_state"}, {"action"}),
    ],
)
def test_a_kind_of_sample_is_what_is_clean_and_what_is_learned(
    kind: str, given: set[str], learned: set[str]
) -> None:
    inputs, noisy, target = samples(spec_for(**PURE[kind]))
    found = levels(noisy)
    for part, sigma in found.items():
        weight = target[part].weight
        if part in given:
            assert sigma == [0.0] * 4 and torch.equal(noisy.take(part), inputs.take(part))
        if part not in learned:
            assert not weight.any()
        else:
            assert weight.all() and all(0 < s <= 1 for s in sigma)
            # Published: one level for all that is noisy in a sample, another in each sample.
            assert sigma == found[min(learned)] and len(set(sigma)) == 4
    if kind == "inverse":  # the value is neither given nor asked for
        assert found["value"] == [1.0] * 4


def test_independent_levels_differ_from_part_to_part() -> None:
    found = levels(samples(spec_for(levels="independent", **PURE["policy"]))[1])
    assert len({s for sigma in found.values() for s in sigma}) == 16


@float64()
def test_kinds_come_in_their_shares() -> None:
    many = samples(spec_for())[0].pick(torch.arange(2000) % 4)
    kinds = Conditional().build()._kinds(many, torch.Generator().manual_seed(0))
    share = torch.bincount(kinds, minlength=4) / 2000
    same_values(share, torch.tensor([0.5, 0.25, 0.25, 0.0]), 0.04)


def test_policy_samples_train_no_value_if_it_is_disabled() -> None:
    # The published flag of this meaning changes nothing by itself; here it does what it says.
    target = samples(spec_for(policy_value=False, **PURE["policy"]))[2]
    assert not target["value"].weight.any() and target["action"].weight.all()
    target = samples(spec_for(policy_value=False, **PURE["world"]))[2]
    assert target["value"].weight.all()


def test_what_is_given_has_no_loss_and_what_is_asked_for_has() -> None:
    spec = spec_for(**PURE["value"])
    policy = Policy.from_spec(spec)
    parts = policy.loss(batch_of(spec), seed=0).parts
    assert parts["value"] > 0
    assert [float(parts[p]) for p in ("action", "video", "next_state")] == [0, 0, 0]


@pytest.mark.parametrize("head", ["mot", "latent_slot"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"context": "open"}, {"act": "action_only"}, {"levels": "independent"}],
    ids=["default", "open", "action only", "independent"],
)
@torch.no_grad()
@float64()
def test_caching_changes_nothing(head: str, settings: dict[str, Any]) -> None:
    spec = spec_for(head, **settings)
    policy = Policy.from_spec(spec)
    inputs = inference_inputs(policy, observation(spec))
    outs, futures, values = [], [], []
    for model in (policy.model, uncached(policy.model)):
        rng = torch.Generator().manual_seed(0)
        outs.append(policy.paradigm.act(model, inputs, policy.schedules, rng))
        seen = inputs.put("action", outs[0].action, 0.0)
        futures.append(policy.paradigm.predict_future(model, seen, policy.schedules, rng))  # type: ignore[attr-defined]
        values.append(policy.paradigm.estimate_value(model, futures[0], policy.schedules, rng))  # type: ignore[attr-defined]
    same_values(outs[0].action, outs[1].action)
    for part in ("video", "next_state", "value"):
        one, two = (future.take(part) for future in futures)
        same_values(one, two)
    same_values(values[0], values[1])
    assert values[0].shape == (2,) and values[0].abs().max() <= 1
    assert (outs[0].value is None) == (settings == {"act": "action_only"})


@torch.no_grad()
@float64()
def test_the_world_model_depends_on_the_action_and_the_value_on_the_future() -> None:
    policy = Policy.from_spec(spec := spec_for())
    paradigm: Any = policy.paradigm
    inputs = inference_inputs(policy, observation(spec))
    found = []
    for shift in (0.0, 1.0):
        rng = torch.Generator().manual_seed(0)
        given = inputs.put("action", inputs.take("action") + shift, 0.0)
        found.append(paradigm.predict_future(policy.model, given, policy.schedules, rng))
    other_values(found[0].take("video"), found[1].take("video"), 0.0001)
    values = []
    for future in (found[0], found[0].put("video", found[0].take("video") + 1, 0.0)):
        rng = torch.Generator().manual_seed(0)
        values.append(paradigm.estimate_value(policy.model, future, policy.schedules, rng))
    other_values(values[0], values[1], 1e-6)


def test_the_program_counts_the_passes_that_are_made() -> None:
    for settings in ({}, {"context": "open"}, {"act": "action_only"}, {"levels": "independent"}):
        spec = spec_for(**settings)
        policy, passes = Policy.from_spec(spec), 0

        def model(*args: Any, policy: Policy = policy, **kwargs: Any) -> Any:
            nonlocal passes
            passes += 1
            return policy.model(*args, **kwargs)

        with torch.no_grad():
            inputs, rng = inference_inputs(policy, observation(spec)), torch.Generator()
            policy.paradigm.act(model, inputs, policy.schedules, rng)
        assert passes == sum(stage.passes for stage in spec.paradigm.program(spec))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": 0.9}, "are shares of a batch and add up to 1.4"),
        ({"act": "action_only", "context": "open"}, 'write context = "closed"'),
        (
            {"act": "action_only", "value": 0.0, "inverse": 0.25},
            'write inverse = 0 or act = "together"',
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(WamkitError, match=message):
        parse_part("paradigm", {"name": "conditional", **settings})


def test_a_head_that_regresses_takes_no_action_as_input() -> None:
    spec = spec_for()
    for name in registry().names("action_head"):
        head = registry().parts["action_head"][name]().tiny()  # type: ignore[call-arg]
        if head.is_regression:  # type: ignore[union-attr]
            found = check(spec.model_copy(update={"action_head": head}))
            assert any("without reading any" in c.why for c in found)
            assert any("choose an action_head that denoises" in c.hint for c in found)


def test_tied_schedules_contradict_independent_levels() -> None:
    spec = spec_for(levels="independent")
    raw = spec.dump()
    raw["schedules"]["action"]["shared_sigma"] = True
    (conflict,) = check(raw)
    assert "that of the action is tied to another" in conflict.why
    raw["paradigm"]["levels"] = "shared"  # what the hint says
    assert check(raw) == [] and parse(raw).paradigm.name == "conditional"
