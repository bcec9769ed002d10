"""Every spec in examples/: it says what it is, acts and learns at toy size, and has the sizes that
were published.

Numbers and masks are those of the papers and repositories that each spec's header names.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from wamkit.cli._params import parameters
from wamkit.config.check import check
from wamkit.config.spec import PolicySpec, parse, read
from wamkit.engine.noise_schedule import schedules_of
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import batch_of, observation

EXAMPLES = Path(__file__).parent.parent / "examples"
SPECS = {path.stem: path for path in sorted(EXAMPLES.glob("*.toml"))}


def spec_of(name: str) -> PolicySpec:
    return parse(read(SPECS[name]), name)


def test_the_published_systems_and_the_new_ones_are_there() -> None:
    published = {"fastwam", "fastwam_joint", "fastwam_idm", "fastwam_no_cotrain", "cosmos_policy"}
    published |= {"cosmos_policy_planning", "image_wam_4b", "image_wam_9b", "efficient_wam"}
    published |= {
        "light_wam",
        "lingbot_va",
        "lingbot_va_robotwin",
        "dreamzero_14b",
        "dreamzero_5b",
        "ge_act",
        "mimic_video",
    }
    new = {"fastwam_on_ltx", "fastwam_on_cosmos", "efficient_image_wam", "cosmos_slots_on_wan"}
    assert published | new | {"starvla_features", "adaptive_wam", "toy"} <= set(SPECS)


@pytest.mark.parametrize("name", SPECS)
def test_the_header_has_a_description_and_a_command(name: str) -> None:
    header = re.match(r"(#.*\n)+", SPECS[name].read_text())
    assert header is not None and "wamkit " in header[0]
    assert len(SPECS[name].read_text().splitlines()) < 110


@pytest.mark.parametrize("name", SPECS)
def test_it_has_no_conflict_but_files_that_are_not_here(name: str) -> None:
    assert [c for c in check(SPECS[name]) if not c.missing] == []


@pytest.mark.parametrize("name", SPECS)
def test_at_toy_size_it_acts_and_learns(name: str) -> None:
    spec, _ = spec_of(name).tiny()
    assert [c for c in check(spec) if not c.missing] == []
    policy = Policy.from_spec(spec)
    seen = observation(spec, batch=1, frames=spec.video.num_observed)
    chunk = policy.act(seen, seed=0).values
    steps = spec.actions.chunk_size - spec.lead_steps  # of a first chunk
    assert chunk.shape == (1, steps, len(spec.actions.executed)) and chunk.isfinite().all()
    loss = policy.train().loss(batch_of(spec, size=1), seed=0)
    loss.total.backward()
    grads = [p.grad for p in policy.parameters() if p.grad is not None]
    assert loss.total.isfinite() and all(bool(g.isfinite().all()) for g in grads)


# Parameters of backbone and action head as published, exact or rounded (within 1 %).
PARAMETERS = {
    "fastwam": (4_999_787_712, 1_020_922_887),
    "efficient_wam": (0.849e9, 0.139e9),
    "light_wam": (1_418_996_800, 0.351e9),
    "cosmos_policy": (1_956_413_440, None),
    "image_wam_4b": (3_875_544_576, None),
    "image_wam_9b": (9_078_581_248, None),
    "ge_act": (1_948_569_728, None),
    "lingbot_va": (4_999_787_712, 67_058_718),
    "dreamzero_5b": (5_571_878_848, 34_813_984),
    "dreamzero_14b": (16_394_878_784, 89_413_664),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_as_many_as_published(name: str) -> None:
    spec = spec_of(name)
    for part, expected in zip((spec.backbone, spec.action_head), PARAMETERS[name], strict=True):
        if expected is not None:
            assert parameters(part, spec.sizes) == pytest.approx(expected, rel=0.01)


# Tokens of a latent frame, and of the numbers, as in the fact sheets of the papers.
TOKENS = {
    "fastwam": {"context": 98, "target": 2 * 98, "action": 32},
    "fastwam_joint": {"context": 98, "target": 2 * 98, "action": 32},
    "simple_wam": {"context": 98, "target": 2 * 98, "action": 32},
    "fastwam_on_ltx": {"context": 98, "target": 98},
    "efficient_wam": {"context": 120, "target": 60, "action": 16 + 1 + 4},
    "light_wam": {"context": 392, "target": 2 * 98},
    "cosmos_policy": {"target": 2 * 196, "action": 196, "state": 196, "value": 196},
    "image_wam_4b": {"context": 392, "action": 16},
    "ge_act": {"action": 36},
    "lingbot_va": {"context": 32},
    "dreamzero_5b": {"context": 50, "target": 2 * 50, "action": 24, "state": 1},
    "dreamzero_14b": {"context": 880, "target": 2 * 880, "action": 24, "state": 1},
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_are_as_many_as_published(name: str) -> None:
    found = spec_of(name).tokens()
    assert {role: found[role] for role in TOKENS[name]} == TOKENS[name]


# Blocks, query heads, key heads and head size that attention is shared in.
ATTENTION = {
    "fastwam": (30, 24, 24, 128),
    "light_wam": (30, 12, 12, 128),
    "efficient_wam": (12, 16, 16, 128),
    "cosmos_policy": (28, 16, 16, 128),
    "mimic_video": (28, 16, 16, 128),
    "ge_act": (28, 32, 32, 64),
    "image_wam_4b": (25, 24, 24, 128),
    "image_wam_9b": (32, 32, 32, 128),
    "lingbot_va": (30, 24, 24, 128),
    "dreamzero_5b": (30, 24, 24, 128),
    "dreamzero_14b": (40, 40, 40, 128),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_has_the_published_shape(name: str) -> None:
    traits = spec_of(name).backbone.traits
    found = (traits.depth, traits.num_heads, traits.num_kv_heads, traits.head_dim)
    assert found == ATTENTION[name]


def grid(name: str, part: str) -> list[float]:
    flow = schedules_of(spec_of(name))[part]
    sampler = flow.init_sampler(torch.zeros(1, 1))
    return [*sampler.levels, 0.0]


def test_schedules_have_the_published_levels() -> None:
    shifted = [1, 0.9783, 0.9524, 0.9211, 0.8824, 0.8333, 0.7692, 0.6818, 0.5556, 0.3571, 0]
    for name in ("fastwam", "image_wam_4b", "efficient_wam"):
        assert grid(name, "action") == pytest.approx(shifted, abs=1e-4)
    edm = [80, 42.29, 20.97, 9.62, 4.00]
    levels = [*(s / (1 + s) for s in edm), 0]
    assert grid("cosmos_policy", "action") == pytest.approx(levels, abs=1e-4)
    bell = schedules_of(spec_of("fastwam"))["video"].weight(torch.tensor([0.1, 0.3, 0.5, 0.833, 1]))
    assert bell.tolist() == pytest.approx([0.631, 1.671, 2.076, 1.027, 0], abs=2e-3)
    assert len(grid("efficient_wam", "action")) == 11 and len(grid("dreamzero_5b", "video")) == 17


# Who sees whom, a row a string, in the order of the roles: 1 where the row attends to the column.
MASKS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "fastwam": (("context", "target", "action"), ("100", "110", "101")),
    "fastwam_joint": (("context", "target", "action"), ("100", "110", "111")),
    "fastwam_idm": (
        ("context", "target", "target'", "action"),
        ("1000", "1100", "1010", "1011"),
    ),
    "efficient_wam": (("context", "target", "action"), ("111", "111", "111")),
    "image_wam_4b": (
        ("text", "context", "target", "action"),
        ("1100", "1100", "1110", "1101"),
    ),
    "light_wam": (("context", "seen", "target"), ("100", "010", "011")),
}


@pytest.mark.parametrize("name", MASKS)
def test_visibility_is_the_published_mask(name: str) -> None:
    roles, rows = MASKS[name]
    sees: Any = spec_of(name).paradigm.sees
    found = tuple("".join(str(int(key in sees[query])) for key in roles) for query in roles)
    assert found == rows
