"""Observed frames as frames of the first block: tables, sizes of samples and chunks, conflicts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_autoregressive.first_block import with_lead

from wamkit import check
from wamkit.config.spec import parse
from wamkit.engine import passes
from wamkit.interfaces.types import (
    CLEAN,
    Frames,
    Level,
    ModelInputs,
    ModelOutput,
    NoisyVectors,
    Text,
)
from wamkit.policy.observation import random_batch, random_observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import same_values

HEAD: dict[str, Any] = {"name": "shared_stream", "embedder": "linear"}
SPEC: dict[str, Any] = {
    "backbone": "toy",
    "vae": "pixel_shuffle",
    "text_encoder": "bytes",
    "action_head": HEAD,
    "paradigm": {
        "name": "autoregressive",
        "chunks": 3,
        "first_frames": "in_block",
        "levels_per": "frame",
        "on_full_memory": "slide",
    },
    "actions": {"chunk_size": 8, "groups": [{"name": "arm", "size": 3}]},
    "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
}


def spec_with(**sections: Any) -> dict[str, Any]:
    stride = parse({**SPEC, "video": {"num_frames": 1}}).vae.stride[0]
    return {**SPEC, "video": {"num_frames": 1 + 2 * stride}, **sections}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_spec(parse(spec_with()))


def test_observed_frames_see_the_frames_of_their_block_and_no_other_block_sees_them(
    policy: Policy,
) -> None:
    table = policy.spec.paradigm.sees
    assert "target.0" in table["context"] and "context" in table["target.0"]
    assert not [row for row, seen in table.items() if "context" in seen and "." in row][1:]


def test_a_sample_has_as_many_fewer_images_and_actions(policy: Policy) -> None:
    spec, stride = policy.spec, policy.spec.vae.stride[0]
    assert spec.num_images == 1 + stride * (3 * 2 - 1)
    assert spec.steps == 4 * (3 * 2 - 1)
    policy.loss(random_batch(spec), seed=0).total.backward()


def test_observed_frames_are_learned_as_all_others(policy: Policy) -> None:
    from wamkit.policy.preprocessing import training_inputs

    inputs = training_inputs(policy, random_batch(policy.spec))
    noisy, target = policy.paradigm.add_noise(
        inputs, policy.schedules, torch.Generator().manual_seed(0)
    )
    assert target["video"].places == tuple(range(6))
    assert target["action"].velocity.shape[1] == 24  # those of zero included
    assert noisy.video is not None and noisy.video.roles[:2] == ("target.0",) * 2
    assert noisy.action is not None and noisy.action.places()[0] == -4
    levels = noisy.video.sigma[0, :6]
    assert len(set(levels.tolist())) == 6


def test_a_first_chunk_is_shorter_and_later_ones_are_whole(policy: Policy) -> None:
    session, stride = policy.session(), policy.spec.vae.stride[0]
    shapes = []
    for k in range(4):
        seen = random_observation(policy.spec, batch=2, frames=session.num_images, seed=k)
        shapes.append((session.num_images, session.act(seen, seed=k).values.shape[1]))
    assert shapes == [(1, 4), (stride, 8), (2 * stride, 8), (2 * stride, 8)]


def test_an_episode_goes_on_from_predictions(policy: Policy) -> None:
    session = policy.session()
    session.act(random_observation(policy.spec, frames=1), seed=0)
    assert session.act(None, seed=1).values.shape[1] == 8
    assert session.num_images == 3 * policy.spec.vae.stride[0]
    seen = random_observation(policy.spec, frames=session.num_images)
    assert session.act(seen, seed=2).values.isfinite().all()


def test_the_first_block_is_imagined_behind_the_observed_frames(policy: Policy) -> None:
    out = policy.imagine(random_observation(policy.spec, frames=1), seed=0)
    assert out.canvas.shape[2] == 1 + policy.spec.vae.stride[0]


@pytest.mark.parametrize("embedder", ["linear", "mlp_sinusoid"])
def test_a_second_episode_looks_up_its_noise_levels(
    embedder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, whole = [], passes.precompute_modulation

    def count(*args: Any, **options: Any) -> Any:
        made.append(args)
        return whole(*args, **options)

    monkeypatch.setattr(passes, "precompute_modulation", count)
    policy = Policy.from_spec(parse(spec_with(action_head={**HEAD, "embedder": embedder})))
    seen = random_observation(policy.spec, frames=1)
    first = policy.session().act(seen, seed=0)
    assert made
    made.clear()
    again = policy.session().act(seen, seed=0)
    assert not made
    same_values(again.values, first.values)


@torch.no_grad()
def test_actions_of_zero_before_the_others_have_levels_of_the_run_too() -> None:
    action = NoisyVectors(torch.randn(2, 3, 4), Level((0.0, 0.7), 1))
    levels: list[Any] = []

    def model(inputs: ModelInputs, **_: Any) -> ModelOutput:
        levels.append((inputs.noisy("action").level, inputs.noisy("action").sigma))
        return ModelOutput(action=inputs.noisy("action").x)

    frames = Frames(torch.zeros(2, 1, 2, 1, 1), ("context", "target"), (0.0, 1.0), (CLEAN,) * 2)
    inputs = ModelInputs(Text(torch.zeros(2, 1, 1)), frames, action)
    with_lead(model, inputs)(inputs)
    with_lead(model, inputs)(inputs.put("action", action.x, torch.tensor([0.7, 0.7])))
    (plain, sigma), (_, tensor) = levels
    assert plain == (CLEAN,) * 3 + (action.level,) * 3
    same_values(sigma, tensor)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"video": {"num_frames": 5}}, "none is left"),
        ({"actions": {**SPEC["actions"], "chunk_size": 7}}, "not as many for each"),
        ({"action_head": "latent_slot"}, "no token for every action"),
    ],
)
def test_blocks_that_the_observed_frames_do_not_fit_are_refused(
    change: dict[str, Any], why: str
) -> None:
    assert any(why in conflict.why for conflict in check(spec_with(**change)))


@pytest.mark.parametrize(
    ("window", "frames", "actions"),
    [(3, ({1}, {0, 1}), ({1}, {1})), (4, ({0, 1}, {0, 1}), ({1}, {0, 1}))],
)
def test_half_blocks_count_frames_and_actions_apart(
    window: int, frames: tuple[set[int], set[int]], actions: tuple[set[int], set[int]]
) -> None:
    paradigm = {**SPEC["paradigm"], "chunks": 4, "window": window, "window_unit": "half_blocks"}
    table = parse(spec_with(paradigm=paradigm)).paradigm.sees
    for row, expected in (("target.2", frames), ("action.2", actions)):
        own = {2} if row == "action.2" else set()
        for kind, past in zip(("seen", "did"), expected, strict=True):
            found = {int(r.partition(".")[2]) for r in table[row] if r.startswith(kind)}
            assert found == past | (own if kind == "seen" else set())


def test_a_window_of_half_blocks_that_is_never_full_is_refused() -> None:
    paradigm = {**SPEC["paradigm"], "window": 5, "window_unit": "half_blocks"}
    assert any("never full" in conflict.why for conflict in check(spec_with(paradigm=paradigm)))
