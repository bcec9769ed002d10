"""Futures imagined under given actions: which paradigms can, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_specs import small_spec

from wamkit.config.registry import registry
from wamkit.config.spec import PolicySpec
from wamkit.errors import WamkitError
from wamkit.policy.build import build
from wamkit.policy.observation import random_observation
from wamkit.policy.policy import Policy
from wamkit.testing.parity import same_values

SIZE = 32
CAN: dict[str, dict[str, Any]] = {
    "conditional": {},
    "conditional alone": {"act": "action_only"},
    "conditional open": {"context": "open"},
    "joint mutual": {"attends": "mutual"},
    "joint video_sees_action": {"attends": "video_sees_action"},
    "joint full": {"attends": "full", "context_level": "target"},
    "planning": {},
    "planning around joint": {"inner": {"name": "joint", "attends": "mutual"}},
    "adaptive around conditional": {
        "inner": {"name": "planning"},
    },
}


def spec(name: str, settings: dict[str, Any] | None = None, **changes: Any) -> PolicySpec:
    backbone = {"name": "toy", "depth": 2, "num_heads": 2, "head_dim": 8, "patch_size": 1}
    paradigm = {"name": name, **(settings or {})}
    return small_spec(SIZE, **{"backbone": backbone, "paradigm": paradigm, **changes})


def made(case: str, **changes: Any) -> Policy:
    return build(spec(case.split()[0], CAN[case], **changes))


def actions(batch: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 4, 2, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.mark.parametrize("case", CAN)
def test_the_imagined_future_depends_on_the_given_actions(case: str) -> None:
    policy = made(case)
    seen = random_observation(policy.spec, batch=2)
    one = policy.imagine(seen, actions=actions(2), seed=3)
    same = policy.imagine(seen, actions=actions(2), seed=3)
    other = policy.imagine(seen, actions=actions(2, seed=1), seed=3)
    assert one.canvas.shape == other.canvas.shape == (2, 3, 3, SIZE, SIZE)
    assert torch.equal(one.canvas, same.canvas) and not torch.equal(one.canvas, other.canvas)
    assert torch.equal(one.canvas[:, :, :1], other.canvas[:, :, :1])
    predicted = "value" in policy.spec.predicts and "planning around" not in case
    assert (one.value is not None) == predicted
    if predicted:
        assert one.value is not None and one.value.shape == (2,) and one.value.abs().max() <= 1
        assert one.next_state is not None and one.next_state.shape == (2, 2)


def test_a_sample_of_a_batch_imagines_what_it_would_alone() -> None:
    policy = made("conditional")
    seen, given = random_observation(policy.spec, batch=2), actions(2)
    both = policy.imagine(seen, actions=given, seed=[5, 6])
    images = {name: image[1:] for name, image in seen.images.items()}
    state = None if seen.state is None else seen.state[1:]
    alone = policy.imagine(type(seen)(images, seen.prompt[1:], state), actions=given[1:], seed=[6])
    same_values(both.canvas[1:], alone.canvas)


def test_the_actions_are_those_of_the_robot() -> None:
    """Actions that are normalized to the same values imagine the same future."""
    from wamkit.policy.actions import Statistics

    policy = made("joint mutual")
    seen, given = random_observation(policy.spec, batch=1), actions(1) / 4
    plain = policy.imagine(seen, actions=given, seed=0)
    ones = (1.0, 1.0)
    raw = {"min": (-3.0, -3.0), "max": (5.0, 5.0), "mean": (0.0, 0.0), "std": ones}
    raw |= {"q01": raw["min"], "q99": raw["max"]}
    policy.set_statistics({"action": Statistics(**raw)})
    scaled = policy.imagine(seen, actions=policy.actions.decode(given, None), seed=0)
    same_values(plain.canvas, scaled.canvas)
    assert not torch.equal(plain.canvas, policy.imagine(seen, actions=given, seed=0).canvas)


@pytest.mark.parametrize("name", registry().names("paradigm"))
def test_every_paradigm_can_or_says_why_not(name: str) -> None:
    changes = {"video": {"num_frames": 2, "frame_stride": 4}} if name == "image_edit" else {}
    chosen = spec(name, **changes)
    conflict = chosen.paradigm.conflict_with_given_actions(chosen)
    assert (conflict is None) == (name in ("conditional", "planning"))
    if conflict is not None:
        assert conflict.why and conflict.hint
        policy = build(chosen)
        with pytest.raises(WamkitError) as problem:
            policy.imagine(random_observation(chosen, batch=1), actions=actions(1))
        assert problem.value.what == conflict.why and problem.value.hint == conflict.hint


def test_training_that_showed_no_clean_action_is_refused() -> None:
    unlearned = spec("conditional", {"world": 0.0, "policy": 0.75})
    found = unlearned.paradigm.conflict_with_given_actions(unlearned)
    assert found is not None and "paradigm.world = 0.25" in found.hint
    schedules = {"action": {"steps": 2}, "video": {"steps": 2, "shared_sigma": True}}
    tied = spec("joint", {"attends": "mutual"}, schedules=schedules)
    found = tied.paradigm.conflict_with_given_actions(tied)
    assert found is not None and found.hint == "train with schedules.video.shared_sigma = false"
    apart = spec("joint")
    found = apart.paradigm.conflict_with_given_actions(apart)
    assert found is not None and 'paradigm.attends = "mutual"' in found.hint
    inside = spec("planning", {"inner": {"name": "conditional", "world": 0.0, "policy": 0.75}})
    found = inside.paradigm.conflict_with_given_actions(inside)
    assert found is not None and found.between == ("paradigm.inner.world",)


def test_wrong_actions_are_refused() -> None:
    policy = made("conditional")
    seen = random_observation(policy.spec, batch=1)
    with pytest.raises(WamkitError, match=r"are \[1, 3, 2\], expected \[1, 4, 2\]"):
        policy.imagine(seen, actions=torch.zeros(3, 2))
    with pytest.raises(WamkitError, match="actions are not finite"):
        policy.imagine(seen, actions=torch.full((4, 2), torch.nan))
