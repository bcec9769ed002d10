"""Blocks whose number of frames, and whose window, are drawn for each training batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_autoregressive import Autoregressive
from wamkit_autoregressive.drawn_blocks import in_blocks

from wamkit import check
from wamkit.config.spec import parse
from wamkit.interfaces.types import base
from wamkit.policy.observation import random_batch, random_observation
from wamkit.policy.policy import Policy
from wamkit.policy.preprocessing import training_inputs
from wamkit.testing.parity import other_values

SPEC: dict[str, Any] = {
    "backbone": "toy",
    "vae": "pixel_shuffle",
    "text_encoder": "bytes",
    "action_head": {"name": "shared_stream", "embedder": "linear"},
    "paradigm": {
        "name": "autoregressive",
        "chunks": 4,
        "window": 5,
        "window_unit": "half_blocks",
        "first_frames": "in_block",
        "levels_per": "frame",
        "on_full_memory": "slide",
        "training_frames": [1, 4],
        "training_window": [2, 7],
    },
    "actions": {"chunk_size": 8, "groups": [{"name": "arm", "size": 3}]},
    "cameras": {"views": [{"name": "front", "size": [16, 16]}]},
}


def spec_with(**paradigm: Any) -> dict[str, Any]:
    stride = parse({**SPEC, "video": {"num_frames": 1}}).vae.stride[0]
    both = {key: value for key, value in {**SPEC["paradigm"], **paradigm}.items() if value}
    return {**SPEC, "video": {"num_frames": 1 + 2 * stride}, "paradigm": both}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return Policy.from_spec(parse(spec_with()))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize("window", [2, 3, 4, 7, 64])
def test_who_sees_whom_is_the_published_rule(size: int, window: int, policy: Policy) -> None:
    frames = 8
    sees = policy.paradigm.visibility(-(-frames // size), window)  # type: ignore[attr-defined]
    tokens = [
        (role, number // size)
        for role in ("target", "seen", "action", "did")
        for number in range(frames)
    ]

    def allowed(query: tuple[str, int], key: tuple[str, int]) -> bool:
        ids = [2 * block + (role in ("action", "did")) for role, block in (query, key)]
        clean = [role in ("seen", "did") for role, _ in (query, key)]
        near = abs(ids[0] - ids[1]) <= window
        if clean[1]:
            return near and (ids[1] <= ids[0] if clean[0] else ids[1] < ids[0])
        return near and not clean[0] and ids[0] == ids[1]

    for query in tokens:
        row = sees[f"{query[0]}.{query[1]}"]
        found = [f"{role}.{block}" in row for role, block in tokens]
        assert found == [allowed(query, key) for key in tokens], query


def test_a_batch_draws_its_blocks_and_all_are_drawn(policy: Policy) -> None:
    inputs = training_inputs(policy, random_batch(policy.spec))
    counts = set()
    for seed in range(40):
        rng = torch.Generator().manual_seed(seed)
        noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, rng)
        assert noisy.video is not None and noisy.action is not None and noisy.sees is not None
        targets = [role for role in noisy.video.roles if base(role) == "target"]
        actions = [role for role in noisy.action.roles if base(role) == "action"]
        blocks = [int(role.partition(".")[2]) for role in targets]
        assert [int(role.partition(".")[2]) for role in actions[::4]] == blocks
        counts.add(blocks.count(0))
    assert counts == {1, 2, 3, 4}


@pytest.mark.parametrize("drawn", [True, False])
def test_a_visibility_table_is_made_once(drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"training_frames": [2, 2], "training_window": [4, 4]}
    policy = Policy.from_spec(parse(spec_with(**(sizes if drawn else dict.fromkeys(sizes)))))
    inputs = training_inputs(policy, random_batch(policy.spec))
    made, block = [], Autoregressive._block

    def count(self: Autoregressive, k: int) -> dict[str, frozenset[str]]:
        made.append(k)
        return block(self, k)

    def add_noise() -> None:
        policy.paradigm.add_noise(inputs, policy.schedules, torch.Generator().manual_seed(0))

    add_noise()
    monkeypatch.setattr(Autoregressive, "_block", count)
    add_noise()
    assert not made


def test_the_loss_knows_the_drawn_blocks(policy: Policy) -> None:
    batch, found = random_batch(policy.spec), []
    for size in ([1, 1], [4, 4]):
        other = Policy.from_spec(parse(spec_with(training_frames=size)))
        other.load_state_dict(policy.state_dict())
        loss = other.loss(batch, seed=3)
        loss.total.backward()
        found.append(loss.total.detach())
    other_values(found[0], found[1])


def test_chunks_in_use_are_those_of_fixed_blocks(policy: Policy) -> None:
    fixed = Policy.from_spec(parse(spec_with(training_frames=None, training_window=None)))
    fixed.load_state_dict(policy.state_dict())
    seen = random_observation(policy.spec, frames=1)
    assert torch.equal(policy.act(seen, seed=0).values, fixed.act(seen, seed=0).values)


def test_past_actions_that_no_token_sees_have_no_copies() -> None:
    spec = {**spec_with(past_actions="none"), "action_head": {"name": "reader"}}
    losses = Policy.from_spec(parse(spec)).loss(random_batch(parse(spec)), seed=0)
    assert losses.total.isfinite()


def test_the_last_block_may_be_shorter() -> None:
    assert in_blocks(["target.0"] * 3 + ["seen.0", "seen.1"], 2) == (
        *("target.0", "target.0", "target.1"),
        *("seen.0", "seen.0"),
    )


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"training_frames": [3, 2]}, "the least and the most"),
        ({"levels_per": "block"}, "must be alike"),
        ({"training_frames": None}, "write that too"),
    ],
)
def test_what_cannot_be_drawn_is_refused(change: dict[str, Any], why: str) -> None:
    assert any(why in conflict.why for conflict in check(spec_with(**change)))
