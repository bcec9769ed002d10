"""Tokens that belong to no frame pass Cosmos' blocks, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
from wamkit_cosmos import Cosmos

from wamkit.testing.backbone_contract import STACK, placed_by_hand

CONFIGS: dict[str, Any] = {
    "predict2": Cosmos(variant="predict2-2b").tiny(),
    "predict2.5": Cosmos(variant="predict2.5-2b", fps=16).tiny(),
}
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_tokens_at_the_places_of_frames_give_the_result_of_frames(case: str) -> None:
    placed_by_hand(CONFIGS[case])


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])


@cases
def test_an_expert_has_the_names_of_the_backbone(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = {name.split(".")[0] for name in theirs.keys() - ours.keys()}
    assert left == {"patch_embed", "norm_out", "proj_out"}
    assert ours["transformer_blocks.0.attn1.to_q.weight"].shape == (72, 20)
    assert ours["transformer_blocks.0.attn2.to_out.0.weight"].shape == (20, 72)
    assert ours["transformer_blocks.2.ff.net.2.weight"].shape == (20, 28)
