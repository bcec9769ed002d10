"""Latent slots in policies that ask more: conditioning latents, coarser targets, more chunks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_latent_slot import LatentSlot

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.interfaces.types import Frames
from wamkit.policy.policy import Policy, generator
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, compose, observation
from wamkit.testing.parity import float64, same_values
from wamkit.testing.uncached import uncached


def spec_for(**changes: Any) -> PolicySpec:
    """A tiny single-pass policy around `toy`, or another backbone."""
    backbone = changes.pop("backbone", None) or registry().parts["backbone"]["toy"]()  # type: ignore[call-arg]
    single: Any = registry().parts["paradigm"]["single_pass"]
    spec = compose(backbone).model_copy(
        update={"action_head": LatentSlot(), "paradigm": single(), **changes}
    )
    return spec.fitted()


@float64()
def lives(spec: PolicySpec) -> Policy:
    """It acts and imagines the same without a cache, and learns."""
    assert check(spec) == []
    policy = Policy.from_spec(spec)
    with torch.no_grad():
        inputs = inference_inputs(policy, observation(spec))
        for way in ("act", "imagine"):
            fast, slow = (
                getattr(policy.paradigm, way)(model, inputs, policy.schedules, generator(0))
                for model in (policy.model, uncached(policy.model))
            )
            one, two = (x.z if isinstance(x, Frames) else x.action for x in (fast, slow))
            same_values(one, two)
    losses = policy.loss(batch_of(spec), seed=0)
    losses.total.backward()
    assert losses.total.isfinite() and policy.action_head.blank.grad.any()
    return policy


@torch.no_grad()
def test_conditioning_latents_hold_the_slots_that_are_given() -> None:
    family: Any = registry().parts["backbone"]["wan"]
    spec = spec_for(backbone=family(variant="2.2-i2v-a14b", noise="high"))
    channels = spec.backbone.traits.cond_channels
    assert channels == 20
    with torch.enable_grad():
        policy = lives(spec)
    inputs = inference_inputs(policy, observation(spec))
    found = policy.action_head.slots(inputs, ())  # type: ignore[operator]
    for name, clip in found.items():
        mask, held = clip.cond_latents.split([4, 16], 1)
        given = name in ("blank", "state")
        assert torch.equal(mask, torch.full_like(mask, float(given)))
        assert torch.equal(held, clip.z if given else torch.zeros_like(clip.z))


def test_targets_may_be_coarser_than_slots() -> None:
    spec = spec_for()
    view = spec.cameras.views[0]
    views = (view.model_copy(update={"size": (2 * view.size[0], 4 * view.size[1] // 3)}),)
    cameras = spec.cameras.model_copy(update={"views": views})
    lives(spec_for(cameras=cameras, video=spec.video.model_copy(update={"target_downscale": 2})))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_sample_may_hold_several_chunks(slots: int) -> None:
    single: Any = registry().parts["paradigm"]["single_pass"]

    class Twice(single):  # type: ignore[misc]
        @property
        def chunks_per_sample(self) -> int:
            return 2

    spec = spec_for(paradigm=Twice(), action_head=LatentSlot(slots=slots))
    policy = Policy.from_spec(spec)
    inputs = training_inputs(policy, batch_of(spec))
    assert inputs.noisy("action").x.shape[1] == 2 * slots
    assert inputs.video is not None
    times = [*policy.action_head.frame_times(inputs.video.times)]  # type: ignore[operator]
    for clip in policy.action_head.slots(inputs, ()).values():  # type: ignore[operator]
        times += clip.times
    assert len(set(times)) == len(times)
    assert policy.loss(batch_of(spec), seed=0).total.isfinite()


def test_half_precision_keeps_noise_in_float32() -> None:
    policy = Policy.from_spec(spec_for(dtype="bfloat16"))
    chunk = policy.act(observation(policy.spec), seed=0)
    assert chunk.values.dtype == torch.float32 and chunk.values.isfinite().all()


def test_a_policy_without_any_weights_in_the_head_is_saved_and_loaded(tmp_path: Any) -> None:
    spec = spec_for(action_head=LatentSlot(blank="none"))
    policy, seen = Policy.from_spec(spec), observation(spec)
    assert not list(policy.action_head.parameters()) and policy.device.type == "cpu"
    again = Policy.load(policy.save(tmp_path / "policy"))
    assert torch.equal(policy.act(seen, seed=0).values, again.act(seen, seed=0).values)


def test_the_tiny_form_of_a_large_chunk_takes_more_slots() -> None:
    spec = spec_for()
    long = spec.actions.model_copy(update={"chunk_size": 500})
    assert spec_for(actions=long).action_head.slots > 1  # type: ignore[attr-defined]
    tiny, _ = spec_for(actions=long).tiny()
    assert check(tiny) == []


def test_another_vae_s_latents_are_written_in_its_own_channels() -> None:
    vae: Any = registry().parts["vae"]["pixel_shuffle"]
    family: Any = registry().parts["backbone"]["wan"]
    spec = spec_for(backbone=family(), vae=vae(adapter="linear"))
    assert spec.vae.channels != spec.backbone.traits.latent_channels
    lives(spec)


def test_reading_averages_the_noise_of_all_copies() -> None:
    policy = Policy.from_spec(spec_for())
    inputs = inference_inputs(policy, observation(policy.spec))
    noise = torch.randn(inputs.noisy("action").x.shape, generator=generator(0))
    read = policy.action_head.from_latent("action", noise)
    copies = noise[0].numel() // (6 * 4)
    assert float(read.std()) == pytest.approx(copies**-0.5, rel=0.35)
