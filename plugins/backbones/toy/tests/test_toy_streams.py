"""Tokens that belong to no frame pass the toy's blocks, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
from wamkit_toy import Toy

from wamkit.testing.backbone_contract import STACK, placed_by_hand

CONFIGS: dict[str, Any] = {
    "toy": Toy(depth=2, num_heads=2, head_dim=12, text_width=16, latent_channels=8),
}
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_tokens_of_a_video_placed_by_hand_give_the_result_of_the_video(case: str) -> None:
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
    assert {name.split(".")[0] for name in theirs.keys() - ours.keys()} == {"enter", "leave"}
    assert ours["blocks.0.to_q.weight"].shape == (24, 20)
    assert ours["blocks.0.to_out.weight"].shape == (20, 24)
    assert ours["blocks.0.ffn.net.2.weight"].shape == (20, 28)
