"""The baseline: plain regression from pooled features, whatever they are pooled from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_regression import Regression

from wamkit import check
from wamkit.config.spec import PolicySpec
from wamkit.engine.passes import PassRunner
from wamkit.interfaces.types import ModelInputs, NoisyVectors, Text
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with
from wamkit.testing.parity import float64, same_values
from wamkit.testing.uncached import uncached

call = PassRunner().call


def spec_for(
    backbone: str = "toy", paradigm: str = "single_pass", /, **settings: Any
) -> PolicySpec:
    """A tiny spec with this head, as `settings` want it."""
    head = Regression(**{"width": 24} | settings)
    spec = spec_with(backbone=backbone, paradigm=paradigm)
    return spec.model_copy(update={"action_head": head}).fitted()


@float64()
def test_noise_changes_no_action_and_the_loss_is_plain_regression() -> None:
    policy = Policy.from_spec(spec_for())
    seen, batch = observation(policy.spec), batch_of(policy.spec)
    one, two = (policy.act(seen, seed=seed).values for seed in (0, 1))
    same_values(one, two)
    with torch.no_grad():
        inputs = training_inputs(policy, batch)
        assert inputs.action is not None and inputs.video is not None
        alone = inputs.with_(video=inputs.video.only("context"))
        still = alone.put("action", torch.zeros_like(inputs.action.x), 1.0)
        found = policy.model(still).action
        assert found is not None
        same_values(
            policy.loss(batch, seed=0).parts["action"], (found + inputs.action.x).square().mean()
        )


@pytest.mark.parametrize("pool", ["mean", "attention"])
@pytest.mark.parametrize("paradigm", ["single_pass", "joint"])
@torch.no_grad()
@float64()
def test_a_cache_changes_nothing(pool: str, paradigm: str) -> None:
    policy = Policy.from_spec(spec_for("toy", paradigm, pool=pool, layers="all"))
    inputs, found = inference_inputs(policy, observation(policy.spec)), []
    for model in (policy.model, uncached(policy.model)):
        rng = torch.Generator().manual_seed(3)
        found.append(policy.paradigm.act(model, inputs, policy.schedules, rng).action)
    same_values(*found)


@pytest.mark.parametrize("backbone", ["toy", "timm_vit"])
@pytest.mark.parametrize(("pool", "state"), [("mean", "text"), ("attention", "concat")])
def test_gradients_reach_every_weight(backbone: str, pool: str, state: str) -> None:
    spec = spec_for(backbone, pool=pool, state=state, layers=(0, -1))
    assert check(spec) == []
    assert spec.action_head.reads_text == (backbone == "timm_vit")
    policy = Policy.from_spec(spec).train()
    policy.loss(batch_of(spec), seed=0).total.backward()
    weights = policy.action_head.named_parameters()
    assert not [n for n, p in weights if p.grad is None or not p.grad.abs().max() > 0]


@pytest.mark.parametrize("pool", ["mean", "attention"])
@torch.no_grad()
def test_padding_of_the_text_is_left_out(pool: str) -> None:
    sizes = spec_for().sizes
    head = Regression(width=24, pool=pool, text="pooled").build(sizes)
    valid = torch.tensor([[True, True, False]] * 2)
    hidden, text_tokens = (
        torch.randn(2, 3, sizes.traits.width),
        torch.randn(2, 3, sizes.traits.text_width),
    )

    def found(hidden: torch.Tensor, text_tokens: torch.Tensor) -> torch.Tensor:
        noisy = NoisyVectors(torch.zeros(2, 6, 4), torch.ones(2))
        inputs = ModelInputs(Text(text_tokens, valid), action=noisy, state=torch.zeros(2, 3))
        memory = head.encode_hidden([hidden], valid, head.embed_text(inputs.text))
        velocity: torch.Tensor = head.read(inputs, [], memory, None, None, call)["action"]
        return velocity

    one = found(hidden, text_tokens)
    for at, same in ((2, True), (1, False)):
        moved = torch.zeros(2, 3, 1)
        moved[:, at] = torch.randn(2, 1)
        for two in (found(hidden * (1 + moved), text_tokens), found(hidden, text_tokens + moved)):
            assert torch.equal(one, two) == same


@torch.no_grad()
def test_the_state_to_come_and_its_value_are_regressed_too() -> None:
    sizes = spec_for().sizes
    sizes = sizes.model_copy(update={"predicts": ("action", "next_state", "value")})
    head = Regression(width=24).build(sizes)
    ones = torch.ones(2)
    inputs = ModelInputs(
        Text(torch.randn(2, 3, sizes.traits.text_width)),
        action=NoisyVectors(torch.randn(2, 6, 4), ones),
        state=torch.randn(2, 3),
        next_state=NoisyVectors(torch.randn(2, 1, 3), ones),
        value=NoisyVectors(torch.randn(2, 1, 1), ones),
    )
    memory = head.encode_hidden(
        [torch.randn(2, 7, sizes.traits.width)], None, head.embed_text(inputs.text)
    )
    found = head.read(inputs, [], memory, None, None, call)
    shapes = {"action": (2, 6, 4), "next_state": (2, 1, 3), "value": (2, 1, 1)}
    assert {part: tuple(v.shape) for part, v in found.items()} == shapes


def test_what_does_not_fit_is_refused_with_a_way_out() -> None:
    found = check(spec_for(layers=(5,)))
    assert len(found) == 1 and "found layers [5], and toy has layers 0 to 1" in found[0].why
    found = check(spec_for(state="none"))
    assert len(found) == 1 and "nothing reads" in found[0].why
    assert check(spec_for("timm_vit", text="none"))[0].between == ("backbone", "action_head")
