"""Fast-WAM's schedule: its mask, its training pass, and one pass plus cached steps in use."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from wamkit_single_pass import SinglePass

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.engine.noise_schedule import draw_noise
from wamkit.interfaces.types import NoisyVectors
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, spec_with, with_overrides
from wamkit.testing.parity import float64, other_values, same_values


def spec_for(backbone: str = "wan", **settings: Any) -> PolicySpec:
    return spec_with(SinglePass(**settings), backbone=backbone, action_head="mot")


def test_the_table_is_the_published_mask() -> None:
    # Rows are queries, columns keys: first latent frame, other video, action (Fast-WAM, uncond).
    published = {
        "context": (True, False, False),
        "target": (True, True, False),
        "action": (True, False, True),
    }
    sees = SinglePass().sees
    columns = ("context", "target", "action")
    assert {r: tuple(c in sees[r] for c in columns) for r in columns} == published


def _clean(policy: Policy, seed: int = 0) -> tuple[torch.Tensor, ...]:
    batch = batch_of(policy.spec, seed=seed)
    inputs = training_inputs(policy, batch)
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator().manual_seed(1))
    assert noisy.video is not None and noisy.action is not None
    full = policy.model(noisy).action
    seen = noisy.with_(video=noisy.video.only("context"), action=None)
    cache = policy.model(seen, keep=("text", "context")).cache
    fast = policy.model(noisy.with_(video=None), cache=cache).action
    assert full is not None and fast is not None
    return full, fast


@torch.no_grad()
@float64()
def test_the_masked_training_pass_equals_prefill_and_cached_step() -> None:
    for name in registry().names("backbone"):
        full, fast = _clean(Policy.from_spec(spec_for(name)))
        same_values(fast, full)


@torch.no_grad()
@float64()
def test_the_future_in_training_does_not_reach_the_action() -> None:
    policy = Policy.from_spec(spec_for())
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator().manual_seed(1))
    assert noisy.video is not None
    one = policy.model(noisy)
    other = noisy.video.put(noisy.video.only("target").z + 1, "target")
    two = policy.model(noisy.with_(video=other))
    assert one.action is not None and two.action is not None
    same_values(one.action, two.action)
    assert one.video is not None and two.video is not None
    other_values(one.video, two.video)


def test_the_context_stays_clean_and_levels_are_independent() -> None:
    policy = Policy.from_spec(spec_for())
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, target = policy.paradigm.add_noise(
        inputs, policy.schedules, torch.Generator().manual_seed(1)
    )
    assert inputs.video is not None and noisy.video is not None and noisy.action is not None
    assert torch.equal(noisy.video.z[:, :, 0], inputs.video.z[:, :, 0])
    assert noisy.video.sigma[:, 0].tolist() == [0, 0] and target["video"].places == (1, 2)
    levels = [*noisy.video.sigma[:, 1].tolist(), *noisy.action.sigma.flatten().tolist()]
    assert len(set(levels)) == 4 and all(0 < s <= 1 for s in levels)
    assert torch.equal(noisy.video.sigma[:, 1], noisy.video.sigma[:, 2])


@torch.no_grad()
@float64()
def test_what_is_predicted_leads_back_to_the_data() -> None:
    policy = Policy.from_spec(spec_for("toy"))
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, target = policy.paradigm.add_noise(
        inputs, policy.schedules, torch.Generator().manual_seed(1)
    )
    assert noisy.video is not None and inputs.video is not None
    assert noisy.action is not None and inputs.action is not None
    video = noisy.video.only("target")
    back = video.z - video.sigma[:, None, :, None, None] * target["video"].velocity
    same_values(back, inputs.video.only("target").z)
    back = noisy.action.x - noisy.action.sigma[..., None] * target["action"].velocity
    same_values(back, inputs.action.x)


@torch.no_grad()
@float64()
def test_acting_equals_the_loop_written_out_without_a_cache() -> None:
    policy = Policy.from_spec(spec_for())
    inputs = inference_inputs(policy, observation(policy.spec))
    assert inputs.video is not None and inputs.action is not None
    rng = torch.Generator().manual_seed(3)
    found = policy.paradigm.act(policy.model, inputs, policy.schedules, rng).action
    x = draw_noise(tuple(inputs.action.x.shape), inputs.action.x, torch.Generator().manual_seed(3))
    seen = inputs.with_(video=inputs.video.only("context"))
    grid = policy.schedules["action"].grid()
    for sigma, lower in pairwise(grid):
        velocity = policy.model(seen.with_(action=NoisyVectors(x, torch.full((2,), sigma)))).action
        assert velocity is not None
        x = x + (lower - sigma) * velocity
    same_values(found, x)


def test_the_program_states_what_runs_once_and_what_iterates() -> None:
    spec = spec_for()
    once, steps = SinglePass().program(spec)
    assert once.passes == 1 and "context" in once.roles
    assert steps.roles == ("action",) and steps.passes == spec.schedules.action.steps
    assert check(spec) == []


def test_without_co_training_no_future_is_passed_and_none_is_learned() -> None:
    policy = Policy.from_spec(spec_for("toy", co_training=False))
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, target = policy.paradigm.add_noise(
        inputs, policy.schedules, torch.Generator().manual_seed(1)
    )
    assert noisy.video is not None and noisy.video.roles == ("context",)
    assert set(target) == {"action"}
    losses = policy.loss(batch_of(policy.spec), seed=0)
    losses.total.backward()
    assert set(losses.parts) == {"action"}
    grads = [p.grad for p in policy.backbone.parameters() if p.grad is not None]  # type: ignore[attr-defined]
    assert any(float(g.abs().max()) > 0 for g in grads)


def test_co_training_changes_nothing_about_acting() -> None:
    one, two = (Policy.from_spec(spec_for("toy", co_training=on)) for on in (True, False))
    two.load_state_dict(one.state_dict())
    seen = observation(one.spec)
    assert torch.equal(one.act(seen, seed=0).values, two.act(seen, seed=0).values)


def downscaled(*overrides: str) -> PolicySpec:
    spec = spec_for()
    height, width = spec.cameras.canvas
    size = f"cameras.views.0.size=[{height * 2}, {width * 4}]"
    ours = ("video.target_downscale=2", 'paradigm.target_context="downscaled"')
    return with_overrides(spec, size, *ours, *overrides)


def test_targets_may_see_the_observation_as_small_as_themselves() -> None:
    sees = SinglePass(target_context="downscaled").sees
    assert set(sees["seen"]) == {"text", "seen"}
    assert "context" not in sees["target"] and "seen" not in sees["action"]
    assert "seen" not in SinglePass(target_context="downscaled", co_training=False).sees
    found = check(downscaled("video.target_downscale=1"))
    assert [c.hint for c in found] == [
        "set video.target_downscale = 2, or leave paradigm.target_context out"
    ]


@pytest.mark.parametrize("pooling", ["images", "latents"])
@torch.no_grad()
@float64()
def test_the_future_is_learned_without_the_full_size_frames(pooling: str) -> None:
    policy = Policy.from_spec(downscaled(f'video.target_pooling="{pooling}"'))
    assert check(policy.spec) == []
    inputs = training_inputs(policy, batch_of(policy.spec))
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator().manual_seed(1))
    assert noisy.video is not None and noisy.future is not None
    assert noisy.video.roles == ("context",)
    assert noisy.future.roles[0] == "seen" and set(noisy.future.roles[1:]) == {"target"}
    assert noisy.future.times == tuple(range(len(noisy.future.roles)))
    if pooling == "latents":
        expected = F.avg_pool3d(noisy.video.z, (1, 2, 2))
        same_values(noisy.future.z[:, :, :1], expected)
    full = policy.model(noisy)
    other = noisy.video.z + torch.randn_like(noisy.video.z)
    moved = policy.model(noisy.with_(video=replace(noisy.video, z=other)))
    assert full.future is not None and moved.future is not None
    assert full.action is not None and moved.action is not None
    same_values(moved.future, full.future)
    other_values(moved.action, full.action)


def test_with_a_small_copy_of_the_observation_it_acts_imagines_and_learns() -> None:
    policy = Policy.from_spec(downscaled('video.target_pooling="latents"'))
    seen = observation(policy.spec)
    assert policy.act(seen, seed=0).values.isfinite().all()
    images = policy.imagine(seen, seed=0).canvas
    assert images.shape[2] == policy.spec.video.num_frames and images.isfinite().all()
    batch = batch_of(policy.spec)
    losses = policy.loss(batch, seed=0)
    assert losses.parts["video"] > 0 and losses.total.isfinite()
    valid = torch.ones(2, policy.spec.video.num_frames, dtype=torch.bool)
    valid[:, 1:] = False
    padded = policy.loss(replace(batch, frame_valid=valid), seed=0)
    assert padded.parts["video"] == 0
