"""Which kinds of samples train Cosmos Policy, as the epochs of the authors' data sets have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wamkit.config.spec import parse, read

ROOT = Path(__file__).parents[4]
RECORD: dict[str, Any] = json.loads(
    (Path(__file__).parent / "data" / "cosmos_policy_shares.json").read_text()
)
PUBLISHED = [0.5, 0.5]
"""Shares of demonstrations among all steps, and of successes among rollouts, of every policy."""


def test_every_published_policy_states_the_same_shares() -> None:
    *policies, planning = RECORD["stated"]
    assert policies == [PUBLISHED] * 3 and planning == [0.1, 0.5]  # the second checkpoint of ALOHA
    assert list(RECORD["p_world_model"].values()) == [[0.5]] * 3


@pytest.mark.parametrize("name", ["cosmos_policy", "cosmos_policy_robocasa", "cosmos_policy_aloha"])
def test_a_spec_teaches_policy_futures_and_values_as_often_as_an_epoch_does(name: str) -> None:
    paradigm: Any = parse(read(ROOT / "examples" / f"{name}.toml")).paradigm
    epochs = [one for one in RECORD["epochs"] if one["shares"] == PUBLISHED]
    assert len(epochs) == 5
    for epoch in epochs:
        kinds = epoch["kinds"]
        total = sum(kinds.values())
        rollouts = (kinds.get("success_rollout", 0) + kinds.get("failure_rollout", 0)) / total
        ((world,),) = {tuple(shares) for shares in RECORD["p_world_model"].values()}
        theirs = kinds["demo"] / total, world * rollouts, (1 - world) * rollouts, 0.0
        for own, their in zip(paradigm.shares, theirs, strict=True):
            assert abs(own - their) <= 1 / total, epoch  # they count whole steps
