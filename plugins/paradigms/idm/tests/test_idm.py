"""First the video, then the action: the published mask, the copy, and how far imagining goes."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from wamkit_idm import Idm

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, parse
from wamkit.config.visibility import Visibility
from wamkit.engine.kv_cache import KVCache
from wamkit.errors import SpecError, WamkitError
from wamkit.interfaces.paradigm import denoise, init_sampler
from wamkit.interfaces.types import Frames, ModelInputs, ModelOutput
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import (
    batch_of,
    noised_sample,
    observation,
    run_paradigm,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, other_values, same_values
from wamkit.testing.uncached import uncached

IMAGINE = [n for n in registry().names("backbone") if n != "timm_vit"]


def spec_for(*changes: str, backbone: str = "toy", **settings: Any) -> PolicySpec:
    spec = spec_with(Idm(**settings), backbone=backbone, action_head="mot")
    return with_overrides(spec, *changes)


def passes(policy: Policy, **act_options: Any) -> list[frozenset[str]]:
    found = []

    def model(
        inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        found.append(inputs.roles - {"text", "state"})
        return policy.model(inputs, cache, keep)

    run_paradigm(policy, model, **act_options)
    return found


PUBLISHED: Visibility = {
    "text": {"text", "context"},
    "state": {"text", "context", "state"},
    "context": {"text", "context"},
    "target": {"text", "context", "target"},
    "context'": {"text", "context'"},
    "target'": {"text", "context'", "target'"},
    "action": {"text", "context'", "target'", "action"},
}


def test_the_table_is_the_published_mask_with_both_clean_first_frames_as_one() -> None:
    # Fast-WAM, idm: two halves of video, each closed; the action looks at the second half alone.
    columns = ("context", "target", "context'", "target'", "action")
    five = (
        (1, 0, 0, 0, 0),
        (1, 1, 0, 0, 0),
        (0, 0, 1, 0, 0),
        (0, 0, 1, 1, 0),
        (0, 0, 1, 1, 1),
    )
    assert tuple(tuple(int(c in PUBLISHED[r]) for c in columns) for r in columns) == five
    merged = {
        row: {role.replace("context'", "context") for role in seen} - {"state"}
        for row, seen in PUBLISHED.items()
        if row not in ("context'", "state")
    }
    sees = {row: set(seen) - {"state"} for row, seen in Idm().sees.items() if row != "state"}
    assert sees == merged


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["wan", "toy", "cosmos", "ltx"])
@float64()
def test_a_second_copy_of_the_clean_first_frame_would_change_nothing(backbone: str) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone))
    _, noisy, _ = noised_sample(policy)
    video = noisy.video
    assert video is not None
    twin = video.only("context").named(context="context'")
    five = video.only("context", "target").then(twin).then(video.only("target'"))
    ours = policy.model(noisy)
    theirs = policy.action_head.join(
        policy.runner, policy.backbone, noisy.with_(video=five), PUBLISHED
    )
    assert ours.action is not None and theirs.action is not None
    same_values(ours.action, theirs.action)
    assert ours.video is not None and theirs.video is not None
    same_values(ours.video[:, :, 1:3], theirs.video[:, :, 1:3])


@torch.no_grad()
@pytest.mark.parametrize("backbone", IMAGINE)
@float64()
def test_the_training_pass_equals_the_cached_use(backbone: str) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone))
    _, noisy, _ = noised_sample(policy)
    full = policy.model(noisy).action
    video, numbers = noisy.video, noisy.with_(video=None)
    assert video is not None
    seen = noisy.with_(video=video.only("context"), action=None)
    cache = policy.model(seen, keep=("text", "context", "state")).cache
    copy = noisy.with_(video=video.only("target'"), action=None)
    kept = policy.model(copy, cache=cache, keep=("target'",)).cache
    assert cache is not None and kept is not None
    fast = policy.model(numbers, cache=cache | kept).action
    assert full is not None and fast is not None
    same_values(fast, full)


@pytest.mark.parametrize("backbone", IMAGINE)
@pytest.mark.parametrize("stop_sigma", [0.0, 0.6, 1.0])
@float64()
def test_caching_changes_nothing(backbone: str, stop_sigma: float) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone))
    one = run_paradigm(policy, stop_sigma=stop_sigma)
    two = run_paradigm(policy, uncached(policy.model), stop_sigma=stop_sigma)
    same_values(one.action, two.action)
    assert one.video is not None and two.video is not None
    same_values(one.video.z, two.video.z)


@float64()
def test_only_the_noisy_half_is_learned_and_the_action_sees_only_the_copy() -> None:
    policy = Policy.from_spec(spec_for("action_head.state=token"))
    inputs, noisy, target = noised_sample(policy)
    video = noisy.video
    assert video is not None and inputs.video is not None
    assert video.roles == ("context", "target", "target", "target'", "target'")
    assert list(video.times) == [0, 1, 2, 1, 2] and target["video"].places == (1, 2)
    velocity = target["video"].velocity
    back = video.only("target").z - video.sigma[:, 1, None, None, None, None] * velocity
    same_values(back, inputs.take("video"))
    with torch.no_grad():
        one = policy.model(noisy).action
        seen = policy.model(noisy.with_(video=_moved(video, "target'"))).action
        hidden = policy.model(noisy.with_(video=_moved(video, "target"))).action
    assert one is not None and seen is not None and hidden is not None
    same_values(hidden, one)
    other_values(seen, one, 0.0001)


def _moved(video: Frames, role: str) -> Frames:
    return video.put(video.only(role).z + 1, role)


@pytest.mark.parametrize(
    ("context_noise_prob", "low", "high"), [(0.5, 0.35, 0.65), (0, 0, 0), (1, 1, 1)]
)
def test_the_copy_is_noised_in_a_share_of_samples_at_a_level_of_its_own(
    context_noise_prob: float, low: float, high: float
) -> None:
    policy = Policy.from_spec(spec_for(context_noise_prob=context_noise_prob))
    inputs, noisy, _ = noised_sample(policy, size=128)
    assert noisy.video is not None
    level, learned = noisy.video.only("target'").sigma, noisy.video.only("target").sigma
    assert torch.equal(level[:, 0], level[:, 1])
    noised = level[:, 0] > 0
    assert low <= noised.float().mean() <= high
    assert not (level == learned).any()
    copy = noisy.video.only("target'").z
    changed = (copy - inputs.take("video")).abs().flatten(1).amax(1) > 0
    assert torch.equal(changed, noised)


def test_imagining_may_stop_anywhere() -> None:
    policy = Policy.from_spec(spec_for("schedules.video.steps=4"))
    counts = {
        u: passes(policy, stop_sigma=u).count(frozenset({"target"})) for u in (0, 0.3, 0.9, 1)
    }
    # Shift 5, four steps: levels 1, 0.9375, 0.8333, 0.625.
    assert counts == {0: 4, 0.3: 4, 0.9: 2, 1: 0}
    video = run_paradigm(policy, stop_sigma=0.3).video
    assert video is not None and video.sigma[0].tolist() == pytest.approx([0, 0.3, 0.3])


@float64()
def test_the_level_of_the_spec_is_what_a_caller_gets_who_does_not_choose() -> None:
    finished = Policy.from_spec(spec_for())
    for stop_sigma in (0.0, 0.6, 1.0):
        other = Policy.from_spec(spec_for(stop_sigma=stop_sigma))
        other.load_state_dict(finished.state_dict())
        assert torch.equal(
            run_paradigm(other).action, run_paradigm(finished, stop_sigma=stop_sigma).action
        )
        assert torch.equal(run_paradigm(other, stop_sigma=0).action, run_paradigm(finished).action)
    one, two = run_paradigm(finished, stop_sigma=0), run_paradigm(finished, stop_sigma=1)
    other_values(one.action, two.action, 0.0001)


@torch.no_grad()
@float64()
def test_a_finished_video_is_what_the_policy_imagines() -> None:
    policy = Policy.from_spec(spec_for())
    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(3),
    )
    init_sampler("action", inputs, policy.schedules, rng)  # drawn first, whatever is imagined
    clip = policy.paradigm.imagine(policy.model, inputs, policy.schedules, rng)
    found = run_paradigm(policy).video
    assert found is not None
    same_values(found.z, clip.z)


def test_optional_imagining_leaves_the_copy_out_of_a_share_of_steps() -> None:
    policy = Policy.from_spec(spec_for(drop_future_prob=0.5))
    inputs = training_inputs(policy, batch_of(policy.spec))
    copies = 0
    for seed in range(64):
        rng = torch.Generator().manual_seed(seed)
        noisy, target = policy.paradigm.add_noise(inputs, policy.schedules, rng)
        copies += "target'" in noisy.roles
        assert "target" in noisy.roles and set(target) == {"video", "action"}
    assert 20 <= copies <= 44


@torch.no_grad()
@float64()
def test_without_imagining_the_action_sees_the_observation_alone() -> None:
    policy = Policy.from_spec(spec_for(drop_future_prob=0.5))
    assert passes(policy, stop_sigma="first_frame") == [{"context"}, *[{"action"}] * 3]
    out = run_paradigm(policy, stop_sigma="first_frame")
    assert out.video is None
    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(3),
    )
    sampler = init_sampler("action", inputs, policy.schedules, rng)
    dense = denoise(policy.model, inputs.without("video"), {"action": sampler})
    same_values(out.action, dense.take("action"))
    assert set(policy.spec.paradigm.variants) == {"first frame alone", "imagining"}


@torch.no_grad()
@pytest.mark.parametrize("backbone", ["wan", "flux2"])
@float64()
def test_coarser_targets_have_their_copy_on_their_own_grid(backbone: str) -> None:
    tiny = spec_for(backbone=backbone)
    height, width = tiny.cameras.canvas
    size = f"cameras.views.0.size=[{height * 2}, {width * 4}]"
    policy = Policy.from_spec(with_overrides(tiny, size, "video.target_downscale=2"))
    assert check(policy.spec) == []
    _, noisy, _ = noised_sample(policy)
    assert noisy.video is not None and noisy.future is not None
    assert noisy.video.roles == ("context",)
    count = policy.spec.latent_frames[1]
    assert noisy.future.roles == ("target",) * count + ("target'",) * count
    one, two = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
    same_values(one.action, two.action)
    assert policy.loss(batch_of(policy.spec), seed=0).total.isfinite()
    assert policy.imagine(observation(policy.spec), seed=0).canvas.isfinite().all()


@pytest.mark.parametrize("stop_sigma", [0.0, 0.9, 1.0, "first_frame"])
def test_the_program_counts_every_pass(stop_sigma: Any) -> None:
    spec = spec_for("schedules.video.steps=4", drop_future_prob=0.5, stop_sigma=stop_sigma)
    stages = spec.paradigm.program(spec)
    roles_by_pass = [set(s.roles) - {"text", "state"} for s in stages for _ in range(s.passes)]
    found = passes(Policy.from_spec(spec))
    assert [{role.rstrip("'") for role in r} for r in roles_by_pass] == [
        {role.rstrip("'") for role in r} for r in found
    ]


def test_choices_that_training_does_not_prepare_for_are_refused() -> None:
    seen = observation(spec_for())
    policy = Policy.from_spec(spec_for())
    with pytest.raises(WamkitError, match="never trained on the observation alone") as refused:
        policy.act(seen, stop_sigma="first_frame")
    assert refused.value.hint == (
        "train with paradigm.drop_future_prob = 0.5, or choose a level such as stop_sigma = 1"
    )
    with pytest.raises(WamkitError, match="stop_sigma = 'soon' is no level") as refused:
        policy.act(seen, stop_sigma="soon")
    assert refused.value.hint == (
        'choose a number from 0 (a finished video) to 1 (none of it), or "first_frame"'
    )
    strict = Policy.from_spec(spec_for(context_noise_prob=0))
    with pytest.raises(WamkitError, match=r"stop_sigma = 0\.3 shows the action a noisy video"):
        strict.act(seen, stop_sigma=0.3)
    assert strict.act(seen, stop_sigma=0, seed=0).values.isfinite().all()
    assert policy.act(seen, stop_sigma="0.3", seed=0).values.isfinite().all()


def test_a_default_that_training_does_not_prepare_for_is_refused() -> None:
    raw = spec_for().dump()
    for settings in (
        {"stop_sigma": "first_frame"},
        {"stop_sigma": 0.5, "context_noise_prob": 0},
        {"stop_sigma": 2},
    ):
        with pytest.raises(SpecError, match=r"stop_sigma|first_frame"):
            parse(raw | {"paradigm": raw["paradigm"] | settings})


def test_without_frames_to_imagine_there_is_no_video_to_read() -> None:
    (found,) = check(spec_for("video.num_frames=1"))
    assert found.why == (
        "idm reads the action off an imagined video, and of 1 images none is left to imagine"
    )
    frames = found.hint.removeprefix("set video.num_frames = ")
    assert check(spec_for(f"video.num_frames={frames}")) == []
