"""Every block has a state of its own: in the table, in samples, in training and in use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from wamkit_autoregressive import Autoregressive

from wamkit.config.check import check
from wamkit.config.overrides import override
from wamkit.config.spec import PolicySpec, parse
from wamkit.data import Samples, collate
from wamkit.policy.policy import Policy
from wamkit.testing.dataset import record
from wamkit.testing.fixtures import (
    batch_of,
    noised_sample,
    observation,
    randomize_weights,
    spec_with,
    with_overrides,
)
from wamkit.testing.parity import float64, other_values, same_values

SETTINGS: dict[str, Any] = {"action": "mutual", "context_noise_prob": 0, "state": "block"}
RELATIVE = 'actions.groups=[{name="a",size=3,kind="relative",state=0},{name="b",size=1}]'


def spec_for(*changes: str, head: str = "shared_stream", **settings: Any) -> PolicySpec:
    paradigm = Autoregressive(**(SETTINGS | settings))
    spec = spec_with(paradigm, backbone="wan", action_head=head)
    return with_overrides(spec, "paradigm.chunks=3", *changes)


def test_a_block_sees_its_own_state_and_a_state_what_is_asked_for() -> None:
    alone = Autoregressive(chunks=3, **SETTINGS).sees
    assert "state.1" in alone["action.1"] and "state.0" not in alone["action.1"]
    assert alone["state.1"] == {"state.1"} and "state" in alone
    block = Autoregressive(chunks=3, state_sees="block", **SETTINGS).sees
    assert block["state.2"] == block["action.2"]
    used = Autoregressive(chunks=3, state_sees="block_in_use", **SETTINGS).sees
    assert used["state.2"] == {"state.2"} and used["state.2'"] == used["action.2"]
    assert {"state.2", "state.2'"} <= used["target.2"]


@float64()
def test_a_sample_has_a_state_for_every_block_at_the_level_of_its_actions() -> None:
    policy = Policy.from_spec(spec_for("video.num_frames=9", state_level="action"))
    batch = batch_of(policy.spec)
    assert batch.states is not None and batch.states.shape[1] == 3
    _, noisy, _ = noised_sample(policy)
    assert noisy.states is not None and noisy.action is not None and noisy.state is None
    assert noisy.states.roles == ("state.0", "state.1", "state.2")
    level = noisy.states.group(noisy.action).level
    steps = policy.spec.actions.chunk_size
    assert torch.equal(torch.as_tensor(level), noisy.action.sigma[:, ::steps][:, :3])


@float64()
def test_first_frames_are_learned_too_where_that_is_asked_for() -> None:
    policy = Policy.from_spec(spec_for("video.num_frames=9", denoise_first=True))
    _, noisy, target = noised_sample(policy)
    assert noisy.video is not None and noisy.video.roles[-1] == "target.first"
    goal = target["video"]
    assert goal.places[-1] == len(noisy.video.roles) - 1 and goal.frames[-1] == 0
    assert goal.velocity.shape[2] == goal.weight.shape[1] == len(goal.places) == 7
    batch = batch_of(policy.spec)
    losses = policy.loss(batch, seed=0)
    assert losses.total.isfinite()


def test_relative_actions_are_relative_to_the_state_of_their_chunk() -> None:
    policy = Policy.from_spec(spec_for(RELATIVE))
    states, steps = torch.randn(2, 3, 3), policy.spec.actions.chunk_size
    actions = torch.randn(2, 3 * steps, 4)
    relative = policy.actions.relative(actions, states)
    same_values(relative[:, steps, :3], actions[:, steps, :3] - states[:, 1], 1e-6)
    same_values(relative[..., 3], actions[..., 3])


def test_recorded_samples_hold_the_state_at_the_beginning_of_every_chunk(tmp_path: Path) -> None:
    spec = spec_for()
    samples = Samples(record(tmp_path / "set", spec), spec)
    steps, first = spec.actions.chunk_size, samples[0]
    assert first["states"].shape == (3, spec.state.size)
    same_values(first["states"][0], first["state"])
    if len(samples) > steps and samples[steps]["episode"] == 0:
        same_values(first["states"][1], samples[steps]["state"])
    batch = collate([first, samples[1]])
    assert batch.states is not None and batch.states.shape == (2, 3, spec.state.size)


@pytest.mark.parametrize("state", ["block", "episode"])
@pytest.mark.parametrize("head", ["shared_stream", "latent_slot", "mot", "reader"])
def test_in_use_a_block_has_the_newest_state_and_an_episode_the_first(
    state: str, head: str
) -> None:
    token = ["action_head.state=token"] if head == "mot" else []
    settings = {"state": "episode", "action": "inverse_dynamics"}
    spec = with_overrides(spec_for(*token, head=head, **settings), f"paradigm.state={state}")
    policy = Policy.from_spec(spec)
    for part in (policy.backbone, policy.action_head):
        randomize_weights(part)  # type: ignore[type-var]

    def second(changed: float) -> torch.Tensor:
        session = policy.session()
        session.act(observation(policy.spec, frames=session.num_images, seed=0), seed=0)
        seen = observation(policy.spec, frames=session.num_images, seed=1)
        object.__setattr__(seen, "state", seen.state + changed)
        return session.act(seen, seed=1).values

    if state == "block":
        other_values(second(1.0), second(0.0), 1e-6)
    else:
        assert torch.equal(second(1.0), second(0.0))


@pytest.mark.parametrize(
    ("changes", "head", "expected"),
    [
        ((), "shared_stream", "block"),
        ((), "mot", "episode"),  # its state is a token of the prompt
        (("action_head.state=token",), "mot", "block"),
        (("state.size=0",), "shared_stream", "episode"),
    ],
)
def test_every_block_has_a_state_by_default_where_it_can(
    changes: tuple[str, ...], head: str, expected: str
) -> None:
    spec = spec_with(Autoregressive(), backbone="wan", action_head=head)
    raw = override(spec.dump(), changes)
    raw["paradigm"]["state"] = None
    found = parse(raw).fitted()
    assert found.paradigm.state == expected and not check(found)  # type: ignore[attr-defined]
    first = Autoregressive(first_frames="in_block")
    assert spec_with(first, backbone="wan", action_head=head).paradigm.state == "episode"


def test_a_head_without_a_token_of_the_state_is_refused() -> None:
    with pytest.raises(AssertionError, match="mot makes none of it"):
        spec_for(head="mot")
    with pytest.raises(ValueError, match="an episode has one state"):
        Autoregressive(state_sees="block")
    with pytest.raises(ValueError, match="stand apart"):
        Autoregressive(state="block", first_frames="in_block")
