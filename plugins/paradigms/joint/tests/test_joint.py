"""Video and action together: published masks, refreshes, coarser targets, and what is refused."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import torch
from wamkit_joint import Joint

from wamkit import check
from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec, override, parse
from wamkit.engine.kv_cache import KVCache
from wamkit.errors import SpecError
from wamkit.interfaces.paradigm import denoise, init_sampler, prefill
from wamkit.interfaces.types import ModelInputs, ModelOutput
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import inference_inputs, training_inputs
from wamkit.testing.fixtures import batch_of, observation, run_paradigm, spec_with, with_overrides
from wamkit.testing.parity import float64, same_values
from wamkit.testing.uncached import uncached

IMAGINE = [n for n in registry().names("backbone") if n != "timm_vit"]


def spec_for(*changes: str, backbone: str = "toy", **settings: Any) -> PolicySpec:
    spec = spec_with(Joint(**settings), backbone=backbone, action_head="mot")
    return with_overrides(spec, *changes)


class Watched:
    """A policy's model that remembers which roles were passed."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.passes = policy, list[frozenset[str]]()
        self.levels = list[list[float]]()

    def __call__(
        self, inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
    ) -> ModelOutput:
        self.passes.append(inputs.roles - {"text", "state"})
        self.levels.append([] if inputs.video is None else inputs.video.sigma[0].tolist())
        return self.policy.model(inputs, cache, keep)


@pytest.mark.parametrize(
    ("attends", "published"),
    [
        # Rows are queries, columns keys: first latent frame, other video, action (Fast-WAM, joint).
        ("action_sees_video", ((1, 0, 0), (1, 1, 0), (1, 1, 1))),
        ("mutual", ((1, 0, 0), (1, 1, 1), (1, 1, 1))),
        ("video_sees_action", ((1, 0, 0), (1, 1, 1), (1, 0, 1))),
        # Efficient-WAM: no mask at all.
        ("full", ((1, 1, 1), (1, 1, 1), (1, 1, 1))),
    ],
)
def test_the_tables_are_the_published_masks(attends: Any, published: Any) -> None:
    sees = Joint(attends=attends).sees
    columns = ("context", "target", "action")
    assert tuple(tuple(int(c in sees[r]) for c in columns) for r in columns) == published
    assert set(sees) == {"text", "context", "state", "target", "action"}


@pytest.mark.parametrize("backbone", IMAGINE)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"refresh": (0, 1)},
        {"attends": "mutual"},
        {"attends": "full"},
        {"context": "open", "refresh": (0,)},
    ],
)
@float64()
def test_caching_changes_nothing(backbone: str, settings: dict[str, Any]) -> None:
    policy = Policy.from_spec(spec_for(backbone=backbone, **settings))
    one, two = run_paradigm(policy), run_paradigm(policy, uncached(policy.model))
    same_values(one.action, two.action)
    assert one.video is not None and two.video is not None
    same_values(one.video.z, two.video.z)


@pytest.mark.parametrize("attends", ["action_sees_video", "mutual", "full"])
def test_a_refresh_at_every_step_is_the_joint_sampling(attends: Any) -> None:
    steps = "schedules.video.steps=3"
    every = Policy.from_spec(spec_for(steps, attends=attends))
    listed = Policy.from_spec(spec_for(steps, attends=attends, refresh=(0, 1, 2)))
    listed.load_state_dict(every.state_dict())
    one, two = run_paradigm(every), run_paradigm(listed)
    assert torch.equal(one.action, two.action)
    assert one.video is not None and two.video is not None
    assert torch.equal(one.video.z, two.video.z)


@pytest.mark.parametrize("attends", ["action_sees_video", "mutual", "video_sees_action", "full"])
@pytest.mark.parametrize("steps", [(3, 3), (2, 4), (4, 2)])
@float64()
def test_whichever_is_done_first_stays_and_is_still_looked_at(
    attends: Any, steps: tuple[int, int]
) -> None:
    changes = (f"schedules.video.steps={steps[0]}", f"schedules.action.steps={steps[1]}")
    policy = Policy.from_spec(spec_for(*changes, attends=attends))
    found = run_paradigm(policy)
    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(3),
    )
    with torch.no_grad():
        samplers = {p: init_sampler(p, inputs, policy.schedules, rng) for p in ("video", "action")}
        cache, rest = prefill(policy.model, inputs, policy.paradigm.sees)
        done = denoise(policy.model, rest, samplers, cache)
    same_values(found.action, done.take("action"))
    assert found.video is not None
    same_values(found.video.only("target").z, done.take("video"))
    assert found.video.sigma.abs().max() == 0


@pytest.mark.parametrize("attends", ["mutual", "full"])
@float64()
def test_between_refreshes_the_action_sees_the_keys_of_the_last(attends: Any) -> None:
    """Efficient-WAM's [0, 1], written out."""
    policy = Policy.from_spec(spec_for(attends=attends, refresh=(0, 1)))
    inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(3),
    )
    model, frames = policy.model, ("text", "context", "target")
    with torch.no_grad():
        video = init_sampler("video", inputs, policy.schedules, rng, steps=2)
        action = init_sampler("action", inputs, policy.schedules, rng)
        for place in range(3):
            now = inputs.put("action", action.x, action.sigma)
            if place < 2:
                now = now.put("video", video.x, video.sigma)
                velocity = model(now, keep=frames)
                kept = velocity.cache
                video.step(velocity.take("video", now))
            else:
                velocity = model(now.with_(video=None), cache=kept)
            action.step(velocity.take("action", now))
    found = run_paradigm(policy)
    same_values(found.action, action.x)
    assert found.video is not None and video.done
    same_values(found.video.only("target").z, video.x)


@pytest.mark.parametrize("backbone", ["wan", "flux2"])
@pytest.mark.parametrize("attends", ["action_sees_video", "mutual", "full"])
@pytest.mark.parametrize("times", ["continue", "restart"])
@float64()
def test_targets_may_be_coarser_than_what_is_observed(
    backbone: str, attends: Any, times: str
) -> None:
    """Efficient-WAM's token-sparse targets, on a grid of their own."""
    tiny = spec_for(backbone=backbone, attends=attends, refresh=(0, 1))
    height, width = tiny.cameras.canvas
    size = f"cameras.views.0.size=[{height * 2}, {width * 4}]"
    raw = override(tiny.dump(), (size, "video.target_downscale=2", f'video.target_times="{times}"'))
    policy = Policy.from_spec(parse(raw))
    assert check(policy.spec) == []
    found = run_paradigm(policy)
    assert found.video is not None and found.action.shape == (2, 6, 4)
    assert tuple(found.video.z.shape[-2:]) == policy.spec.target_size
    if attends == "action_sees_video":
        again = run_paradigm(policy, uncached(policy.model))
        same_values(found.action, again.action)
    policy.loss(batch_of(policy.spec), seed=0).total.backward()
    assert any(p.grad is not None for p in policy.backbone.parameters())  # type: ignore[attr-defined]
    images = policy.imagine(observation(policy.spec), seed=0)
    assert images.canvas.shape[-2:] == (height, width * 2)


def test_the_program_counts_every_pass() -> None:
    video, action = "schedules.video.steps={}", "schedules.action.steps={}"
    for attends in ("action_sees_video", "mutual", "full"):
        for refresh in ("every", (0, 1)):
            for steps in ((2, 2), (1, 4), (3, 2)):
                changes = video.format(steps[0]), action.format(steps[1])
                spec = spec_for(*changes, attends=attends, refresh=refresh)
                watched = Watched(Policy.from_spec(spec))
                run_paradigm(watched.policy, watched)
                stages = spec.paradigm.program(spec)
                assert sum(s.passes for s in stages) == len(watched.passes)
                roles_by_pass = [
                    set(s.roles) - {"text", "state"} for s in stages for _ in range(s.passes)
                ]
                found = sorted(sorted(roles) for roles in watched.passes)
                assert sorted(sorted(roles) for roles in roles_by_pass) == found


@float64()
def test_levels_are_independent_unless_a_schedule_is_tied() -> None:
    for tied in (False, True):
        policy = Policy.from_spec(spec_for(f"schedules.action.shared_sigma={str(tied).lower()}"))
        inputs, rng = (
            training_inputs(policy, batch_of(policy.spec)),
            torch.Generator().manual_seed(1),
        )
        noisy, target = policy.paradigm.add_noise(inputs, policy.schedules, rng)
        assert noisy.video is not None and noisy.action is not None
        assert noisy.video.sigma[:, 0].tolist() == [0, 0]
        assert torch.equal(noisy.video.sigma[:, 1:2], noisy.action.sigma) == tied
        for part in ("video", "action"):
            sigma = noisy.video.sigma[:, 1] if part == "video" else noisy.action.sigma
            back = (
                noisy.take(part)
                - sigma.reshape(-1, *(1,) * (target[part].velocity.ndim - 1))
                * target[part].velocity
            )
            same_values(back, inputs.take(part))


@pytest.mark.parametrize("name", ["clean", "target"])
def test_observed_frames_may_have_the_level_of_the_targets(name: Any) -> None:
    """Efficient-WAM has one level for all video tokens, though the first frame is clean."""
    policy = Policy.from_spec(spec_for(attends="full", context_level=name))
    watched = Watched(policy)
    run_paradigm(policy, watched)
    for levels in watched.levels:
        assert levels[0] == (levels[1] if name == "target" else 0)
    inputs, rng = training_inputs(policy, batch_of(policy.spec)), torch.Generator().manual_seed(1)
    noisy, target = policy.paradigm.add_noise(inputs, policy.schedules, rng)
    assert noisy.video is not None and inputs.video is not None
    assert torch.equal(noisy.video.z[:, :, 0], inputs.video.z[:, :, 0])
    same = torch.equal(noisy.video.sigma[:, 0], noisy.video.sigma[:, 1])
    assert same == (name == "target") and target["video"].places == (1, 2)
    watched = Watched(policy)
    blank_inputs, rng = (
        inference_inputs(policy, observation(policy.spec)),
        torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        policy.paradigm.imagine(watched, blank_inputs, policy.schedules, rng)
    for levels in watched.levels:
        assert levels[0] == (levels[1] if name == "target" else 0)


def test_an_open_context_sees_the_imagined_frames_and_nothing_is_kept_of_it() -> None:
    open_, closed = Joint(context="open"), Joint()
    assert "target" in open_.sees["context"] and "target" not in closed.sees["context"]
    assert open_.sees["target"] == closed.sees["target"]
    stages = open_.program(spec_for(context="open"))
    assert "context" in stages[0].roles and "target" in stages[0].roles


@float64()
def test_noise_in_the_context_is_not_announced_and_stays_below_its_share() -> None:
    policy = Policy.from_spec(spec_for(context_noise=0.1))
    inputs = training_inputs(policy, batch_of(policy.spec))
    rng = torch.Generator().manual_seed(1)
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, rng)
    assert noisy.video is not None and inputs.video is not None
    moved = (noisy.video.z - inputs.video.z)[:, :, 0]
    assert float(moved.abs().max()) > 0 and float(moved.std()) < 0.1 * 1.6
    assert float(noisy.video.sigma[:, 0].max()) == 0


def conflict(spec: PolicySpec, place: str) -> Any:
    (found,) = (c for c in check(spec) if place in c.between)
    return found


def test_refreshes_beyond_the_steps_of_the_action_are_refused() -> None:
    found = conflict(spec_for("paradigm.refresh=[0, 1, 7]"), "paradigm.refresh")
    assert found.why == (
        "the video is to be refreshed at evaluation 7 of the action, which has evaluations 0 to 2"
    )
    assert found.hint == "set paradigm.refresh = [0, 1]"
    assert check(spec_for("paradigm.refresh=[0, 1]")) == []


def test_a_solver_of_two_evaluations_refuses_an_odd_number_of_refreshes() -> None:
    spec = spec_for('schedules.video.solver="heun"', refresh=(0, 1, 2))
    found = conflict(spec, "schedules.video.solver")
    assert found.why == (
        "heun evaluates the video twice a step, and 3 refreshes are no whole number of steps"
    )
    assert check(spec_for('schedules.video.solver="heun"', refresh=(0, 1))) == []
    assert check(spec_for('schedules.video.solver="euler"', refresh=(0, 1, 2))) == []


def test_without_frames_to_imagine_there_is_nothing_to_denoise_together() -> None:
    found = conflict(spec_for("video.num_frames=1"), "paradigm")
    assert found.why == (
        "joint denoises the video with the action, and of 1 images none is left to imagine"
    )
    frames = found.hint.removeprefix("set video.num_frames = ")
    assert check(spec_for(f"video.num_frames={frames}")) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refresh": [1, 2]}, "refresh lists evaluations of the action from 0 on, ascending"),
        ({"refresh": []}, "refresh lists evaluations of the action from 0 on, ascending"),
        ({"context_level": "target"}, 'write context_level = "clean" or attends = "full"'),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    raw = spec_for().dump()
    with pytest.raises(SpecError, match="paradigm") as refused:
        parse(raw | {"paradigm": raw["paradigm"] | settings})
    assert message in str(refused.value)
