"""Tokens that belong to no frame pass Qwen-Image's blocks, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_qwen_image import QwenImage

from wamkit.testing.backbone_contract import STACK, grid, placed_by_hand

CONFIGS: dict[str, Any] = {
    "edit": QwenImage(variant="tiny"),
}
cases = pytest.mark.parametrize("case", CONFIGS)


def from_the_middle(times: Tensor, rows: int, columns: int) -> Tensor:
    """Places of the tokens of targets; all of them are the image in the making."""
    return grid(0 * times, rows, columns) - torch.tensor([0, rows // 2, (columns + 1) // 2])


@cases
def test_tokens_of_a_video_placed_by_hand_give_the_numbers_of_the_video(case: str) -> None:
    placed_by_hand(CONFIGS[case], from_the_middle)


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])


@cases
def test_an_expert_has_the_names_of_the_backbone(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = theirs.keys() - ours.keys()
    assert {name.split(".")[0] for name in left if "add" not in name and "txt" not in name} == {
        "img_in", "norm_out", "proj_out"
    }  # fmt: skip
    assert ours["transformer_blocks.0.attn.to_q.weight"].shape == (64, 20)
    assert ours["transformer_blocks.0.attn.to_out.0.weight"].shape == (20, 64)
    assert ours["transformer_blocks.1.img_mlp.net.2.weight"].shape == (20, 28)
