"""Chunk after chunk of an episode: the history that the policy gets, and what it drops."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from wamkit.config.check import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError
from wamkit.interfaces.types import ModelInputs, ParadigmOutput
from wamkit.policy.actions import Statistics
from wamkit.policy.observation import Batch, Observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import compose, observation, spec_with, with_overrides
from wamkit.testing.parity import float64, other_values, same_values, to_float64


def spec_for(
    *changes: str, backbone: str = "toy", paradigm: str = "autoregressive", **settings: Any
) -> PolicySpec:
    if paradigm == "autoregressive":
        settings = {"on_full_memory": "slide"} | settings
    chosen = registry().get("paradigm", paradigm)(**settings)  # type: ignore[call-arg]
    return with_overrides(spec_with(chosen, backbone=backbone, action_head="mot"), *changes)


def episode(spec: PolicySpec, images: int, *, batch: int = 2) -> Observation:
    """Everything that is seen in an episode."""
    return observation(spec, batch=batch, frames=images, seed=7)


def part(whole: Observation, start: int, stop: int, **changes: Any) -> Observation:
    """Some images of an episode."""
    images = {name: x[:, start:stop] for name, x in whole.images.items()}
    return replace(whole, images=images, **changes)


def record_passes(policy: Policy) -> list[tuple[ModelInputs, ParadigmOutput]]:
    """The inputs that the paradigm is given from now on, and the outputs it returns."""
    recorded: list[tuple[ModelInputs, ParadigmOutput]] = []
    sample_chunk = policy.sample

    def listen(inputs: ModelInputs, **given: Any) -> ParadigmOutput:
        out = sample_chunk(inputs, **given)
        recorded.append((inputs, out))
        return out

    policy.sample = listen  # type: ignore[method-assign]
    return recorded


def off_center(size: int) -> Statistics:
    """Statistics under which zero in physical units is not zero in normalized ones."""
    low, high = (1.0,) * size, (3.0,) * size
    return Statistics(low, high, (2.0,) * size, (1.0,) * size, low, high)


def test_a_policy_without_memory_acts_as_ever() -> None:
    policy = Policy.from_spec(spec_for(paradigm="single_pass"))
    session = policy.session()
    for seed in range(3):
        seen = observation(policy.spec, seed=seed)
        assert session.num_images == 1
        chunk = session.act(seen, seed=seed)
        assert torch.equal(chunk.values, policy.act(seen, seed=seed).values)
    with pytest.raises(WamkitError, match="no observation") as refused:
        session.act(None)
    assert refused.value.hint == "pass an observation"


def test_the_first_chunk_is_that_of_act() -> None:
    policy = Policy.from_spec(spec_for())
    seen = observation(policy.spec)
    one, two = policy.session(), policy.session()
    first = one.act(seen, seed=5).values
    assert torch.equal(first, policy.act(seen, seed=5).values)
    one.act(part(episode(policy.spec, 3), 1, 3), seed=0)
    assert torch.equal(two.act(seen, seed=5).values, first), "sessions know nothing of each other"
    one.reset()
    assert one.num_images == 1 and torch.equal(one.act(seen, seed=5).values, first)


@pytest.mark.parametrize(("backbone", "views"), [("toy", 1), ("wan", 1), ("toy", 2), ("wan", 2)])
@torch.no_grad()
@float64()
def test_history_enters_as_in_training(backbone: str, views: int) -> None:
    spec = spec_for("paradigm.chunks=3", backbone=backbone)
    if views > 1:  # each is a latent frame by itself
        height, width = spec.cameras.canvas
        both = ", ".join(f'{{name = "{k}", size = [{height}, {width}]}}' for k in range(views))
        changes = 'cameras.layout="frame_per_view"', f"cameras.views=[{both}]"
        spec = with_overrides(spec, *changes)
    policy = Policy.from_spec(spec, statistics={"action": off_center(spec.actions.size)})
    step = spec.video.num_frames - spec.video.num_observed
    whole, recorded, session = (
        episode(spec, spec.num_images),
        record_passes(policy),
        policy.session(),
    )
    chunks, done = [], torch.zeros(2, spec.actions.chunk_size, spec.actions.size)
    chunks.append(session.act(part(whole, 0, 1), seed=0).values)
    assert session.num_images == step
    chunks.append(session.act(part(whole, 1, 1 + step), seed=1).values)
    session.act(part(whole, 1 + step, 1 + 2 * step), done, seed=2)
    true = torch.cat([chunks[0], done, done], 1)
    inputs = training_inputs(policy, Batch(whole, true))
    assert recorded[0][0].past is None
    for k, (chunk_inputs, _) in enumerate(recorded[1:]):
        past = chunk_inputs.past
        assert past is not None and past.video is not None and past.action is not None
        frames, actions = inputs.take("video").chunk(3, 2)[k], inputs.take("action").chunk(3, 1)[k]
        same_values(past.video, frames)
        same_values(past.action, actions)
        assert chunk_inputs.state is recorded[0][0].state
    zero = policy.action_head.from_latent("action", recorded[2][0].past.action)  # type: ignore[union-attr, arg-type]
    same_values(zero, torch.full_like(zero, -2.0))
    # Left out, the actions of the chunk itself were made; in training normalized ones are clipped.
    first = policy.action_head.from_latent("action", recorded[0][1].action)
    again = policy.action_head.from_latent("action", recorded[1][0].past.action)  # type: ignore[union-attr, arg-type]
    same_values(again, first)


def test_an_observation_holds_the_images_since_the_last_one() -> None:
    policy = Policy.from_spec(spec_for())
    session, whole = policy.session(), episode(policy.spec, 5)
    with pytest.raises(WamkitError, match="gives 2 images, expected 1"):
        session.act(part(whole, 0, 2))
    session.act(part(whole, 0, 1))
    with pytest.raises(WamkitError, match="gives 1 images, expected 2"):
        session.act(part(whole, 1, 2))
    session.act(part(whole, 1, 3))


def test_an_episode_keeps_its_robots_and_its_actions_their_shape() -> None:
    policy = Policy.from_spec(spec_for())
    session, whole = policy.session(), episode(policy.spec, 3)
    session.act(part(whole, 0, 1))
    with pytest.raises(WamkitError, match="an observation of 3 robots in an episode of 2"):
        session.act(part(episode(policy.spec, 3, batch=3), 1, 3))
    with pytest.raises(WamkitError) as refused:
        session.act(part(whole, 1, 3), torch.zeros(2, 5, 4))
    assert refused.value.what == "executed actions [2, 5, 4]; the session waits for [2, 6, 4]"
    assert "or none if it made them all" in refused.value.hint
    session.act(part(whole, 1, 3), torch.zeros(2, 6, 4))


@float64()
def test_relative_actions_are_relative_to_the_state_at_the_beginning() -> None:
    relative = '[{name = "arm", size = 3, kind = "relative", state = 0}, {name = "g", size = 1}]'
    policy = Policy.from_spec(spec_for(f"actions.groups={relative}"))
    whole, recorded, session = episode(policy.spec, 3), record_passes(policy), policy.session()
    assert whole.state is not None
    first = session.act(part(whole, 0, 1), seed=0).values
    second = session.act(part(whole, 1, 3, state=whole.state + 10), seed=1).values
    for chunk, (_, out) in zip((first, second), recorded, strict=True):
        normal = policy.action_head.from_latent("action", out.action)
        same_values(chunk[..., :3], normal[..., :3] + whole.state[:, None])
    past = recorded[1][0].past
    assert past is not None and past.action is not None
    same_values(past.action, recorded[0][1].action)


@float64()
def test_without_an_observation_what_was_imagined_stands_for_it() -> None:
    policy = Policy.from_spec(spec_for())
    session, whole = policy.session(), episode(policy.spec, 7)
    with pytest.raises(WamkitError, match="nothing that was imagined to go on from"):
        session.act(None)
    session.act(part(whole, 0, 1), seed=0)
    with pytest.raises(WamkitError, match="executed actions without images"):
        session.act(None, torch.zeros(2, 6, 4))
    session.act(None, seed=1)
    assert session.num_images == 4
    actions = torch.rand(2, 12, 4) - 0.5
    late = session.act(part(whole, 1, 5), actions, seed=2).values
    assert session.num_images == 2
    session.reset()
    session.act(part(whole, 0, 1), seed=0)
    session.act(part(whole, 1, 3), actions[:, :6], seed=1)
    soon = session.act(part(whole, 3, 5), actions[:, 6:], seed=2).values
    same_values(late, soon)


def test_an_observation_may_come_after_more_chunks_than_the_network_distinguishes() -> None:
    policy = Policy.from_spec(spec_for())
    recorded, session, whole = record_passes(policy), policy.session(), episode(policy.spec, 9)
    session.act(part(whole, 0, 1), seed=0)
    for seed in range(3):
        session.act(None, seed=seed)
    assert session.num_images == 8
    session.act(part(whole, 1, 9), seed=0)
    past = recorded[-1][0].past
    assert past is not None and past.video is not None and past.action is not None
    assert past.video.shape[2] == 8 and past.action.shape[1] == 24
    assert recorded[-1][1].memory.num_observed == 4


def test_a_new_instruction_begins_a_new_episode_at_the_newest_images() -> None:
    policy = Policy.from_spec(spec_for())
    session, whole = policy.session(), episode(policy.spec, 5)
    session.act(part(whole, 0, 1), seed=0)
    changed = part(whole, 1, 3, prompt=["task 0", "another"], state=torch.ones(2, 3))
    anew = session.act(changed, seed=1).values
    expected = policy.act(part(changed, 1, 2), seed=1).values
    assert torch.equal(anew, expected) and session.num_images == 2
    session.reset("another")
    values = session.act(part(whole, 0, 1), seed=1).values
    assert torch.equal(values, policy.act(part(whole, 0, 1, prompt=["another"] * 2), seed=1).values)


def test_a_full_memory_begins_anew_where_the_paradigm_reports_it() -> None:
    policy = Policy.from_spec(spec_for(on_full_memory="restart"))
    session, whole = policy.session(), episode(policy.spec, 9)
    session.act(part(whole, 0, 1), seed=0)
    session.act(part(whole, 1, 3), seed=0)
    with pytest.raises(WamkitError, match="the memory is full") as refused:
        session.act(None)
    assert refused.value.hint == "pass an observation"
    seen = part(whole, 3, 5, state=torch.ones(2, 3))
    anew = session.act(seen, seed=4).values
    assert torch.equal(anew, policy.act(part(seen, 1, 2), seed=4).values)
    session.act(part(whole, 5, 7), seed=0)


def test_an_episode_may_go_on_for_ever() -> None:
    policy = Policy.from_spec(spec_for("video.num_observed=3", "video.num_frames=5"))
    recorded, session, whole = record_passes(policy), policy.session(), episode(policy.spec, 21)
    session.act(part(whole, 0, 3), seed=0)
    sizes = []
    for start in range(3, 21, 2):
        session.act(part(whole, start, start + 2), seed=0)
        sizes.append(_numbers_in(recorded[-1][1].memory.observed))
    assert len(set(sizes[1:])) == 1, "the memory stays as large as it is"


def _numbers_in(cache: Any) -> int:
    return sum(kv.k.numel() for layer in cache.layers for kv in layer.values())


@torch.no_grad()
def test_guidance_goes_on_through_an_episode() -> None:
    policy = Policy.from_spec(spec_for("schedules.video.guidance_scale=3"))
    plain = Policy.from_spec(spec_for())
    plain.load_state_dict(policy.state_dict())
    whole = episode(policy.spec, 5)
    chunks: list[list[Tensor]] = []
    for either in (policy, plain):
        session = either.session()
        chunks.append([session.act(part(whole, 0, 1), seed=0).values])
        chunks[-1] += [session.act(part(whole, k, k + 2), seed=0).values for k in (1, 3)]
    for guided, without in zip(*chunks, strict=True):
        assert guided.isfinite().all()
        other_values(guided, without, 1e-4)


@torch.no_grad()
@float64()
def test_the_guide_of_a_chunk_is_that_of_training() -> None:
    wan = registry().get("backbone", "wan")(variant="2.2-i2v-a14b")  # type: ignore[call-arg]
    streaming = registry().get("paradigm", "autoregressive")(state="episode")  # type: ignore[call-arg]
    policy = Policy.from_spec(compose(wan, streaming))
    spec, whole = policy.spec, episode(policy.spec, policy.spec.num_images)
    actions = torch.zeros(2, spec.steps, spec.actions.size)
    sample, chunk = (
        training_inputs(policy, Batch(whole, actions)),
        inference_inputs(policy, part(whole, 0, 1)),
    )
    assert sample.video is not None and chunk.video is not None
    one, two = sample.video.cond_latents, chunk.video.cond_latents
    assert one is not None and two is not None
    same_values(one[:, :, : two.shape[2]], two)


@torch.no_grad()
@float64()
def test_an_episode_that_is_encoded_as_a_stream_has_the_latents_of_one_clip() -> None:
    spec = spec_for("vae.name=wan2.2", "vae.width=tiny", backbone="wan", chunks=3)
    policy = to_float64(Policy.from_spec(spec))
    whole = episode(spec, spec.num_images, batch=1)
    found = []
    for way in ("window", "stream"):
        policy.spec = with_overrides(spec, f"video.episode_latents={way}")
        passes, session, at = record_passes(policy), policy.session(), 0
        for seed in range(3):
            count = session.num_images
            session.act(part(whole, at, at + count), seed=seed)
            at += count
        found.append([inputs.past.video for inputs, _ in passes if inputs.past is not None])
    assert len(found[0]) == 2
    same_values(found[1], found[0])


def test_a_vae_that_encodes_whole_clips_only_streams_no_episode() -> None:
    raw = spec_for().dump()
    raw["video"]["episode_latents"] = "stream"
    assert any("encodes whole clips only" in conflict.why for conflict in check(raw))


def test_settings_of_an_episode_are_refused_where_they_have_no_effect() -> None:
    raw = spec_for(paradigm="single_pass").dump()
    raw["video"] |= {"episode_latents": "stream", "new_clip": "apart", "new_images": 1}
    keys = {f"video.{key}" for key in ("episode_latents", "new_clip", "new_images")}
    refused = {conflict.between[0] for conflict in check(raw) if "paradigm" in conflict.between}
    assert refused == keys
    raw = spec_for("vae.name=wan2.2", "vae.width=tiny", backbone="wan", chunks=3).dump()
    raw["video"] |= {"episode_latents": "stream", "new_clip": "apart"}
    assert [conflict.between[0] for conflict in check(raw)] == ["video.new_clip"]


def test_the_new_images_of_a_shorter_first_chunk_are_whole() -> None:
    vae = ("vae.name=wan2.2", "vae.width=tiny")
    spec = spec_for("actions.chunk_size=8", *vae, backbone="wan", first_frames="in_block", chunks=2)
    new = 4 * spec.time_stride
    raw = spec.dump()
    raw["video"] |= {"num_frames": 1 + new, "new_images": 4}
    assert check(raw) == []
    for images in (1, 2):
        raw["video"]["new_images"] = images
        (conflict,) = check(raw)
        assert conflict.between[0] == "video.new_images"
        assert "set video.new_images = 4" in conflict.hint


def test_an_observation_is_arranged_on_the_canvas_once(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, arranged = Policy.from_spec(spec_for()), []
    canvas = policy.cameras.canvas
    monkeypatch.setattr(policy.cameras, "canvas", lambda *a: (arranged.append(1), canvas(*a))[1])
    session, seen = policy.session(), 0
    for _ in range(2):
        images = session.num_images
        chunk = session.act(observation(policy.spec, frames=images, seed=seen), seed=0)
        seen += 1
        assert len(arranged) == seen and chunk.values.isfinite().all()
    other = observation(policy.spec, frames=session.num_images)
    with pytest.raises(WamkitError, match="unknown camera"):
        session.act(replace(other, images={"other": next(iter(other.images.values()))}))
    assert len(arranged) == seen
