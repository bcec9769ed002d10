"""The passes that a program states are those that a call makes, with evaluations left out too."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.noise_schedule import ScheduleConfig, joint_passes
from wamkit.config.spec import parse, read
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import run_paradigm

SMALL = Path(__file__).parent / "data" / "small.toml"
MUTUAL = {"name": "autoregressive", "chunks": 2, "action": "mutual"}


@pytest.mark.parametrize(
    ("paradigm", "video", "action"),
    [
        (MUTUAL, {"evaluate_steps": [0, 2]}, {"evaluate_steps": [0, 1]}),
        (MUTUAL, {"evaluate_steps": [0, 2]}, {"steps": 2}),
        ({"name": "conditional"}, {"evaluate_steps": [0, 2]}, {"evaluate_steps": [0, 1]}),
        ({"name": "idm", "stop_sigma": 0.5}, {"evaluate_steps": [0, 2]}, {}),
        ({"name": "idm", "stop_sigma": 0.0}, {"evaluate_steps": [0, 2]}, {"steps": 2}),
    ],
)
def test_a_call_makes_the_passes_that_its_program_states(
    paradigm: Mapping[str, Any], video: Mapping[str, Any], action: Mapping[str, Any]
) -> None:
    schedules = {"video": {"steps": 4, **video}, "action": {"steps": 4, **action}}
    raw = read(SMALL) | {"paradigm": dict(paradigm), "schedules": schedules}
    policy, calls = Policy.from_spec(parse(raw)), 0

    def count(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return policy.model(*args, **options)

    run_paradigm(policy, count)
    assert calls == sum(stage.passes for stage in policy.spec.paradigm.program(policy.spec))


def test_modalities_that_are_denoised_together_are_evaluated_whenever_one_of_them_is() -> None:
    some = ScheduleConfig(steps=4, evaluate_steps=(0, 2))
    assert joint_passes(some) == some.evaluations == 2
    assert joint_passes(some, ScheduleConfig(steps=4, evaluate_steps=(0, 1))) == 3
    assert joint_passes(some, ScheduleConfig(steps=2)) == 3
    assert joint_passes() == 0
