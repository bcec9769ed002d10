"""Tokens that belong to no frame pass OmniGen2's layers, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from wamkit_omnigen2 import OmniGen2

from wamkit.testing.backbone_contract import STACK, grid, placed_by_hand

CONFIGS: dict[str, Any] = {
    "omnigen2": OmniGen2(variant="tiny"),
}
cases = pytest.mark.parametrize("case", CONFIGS)


def in_tokens(times: Tensor, rows: int, columns: int) -> Tensor:
    """Positions of the tokens of images, each as far from the next as its longer side."""
    return grid(times * max(rows, columns), rows, columns)


@cases
def test_tokens_of_a_video_placed_by_hand_give_the_result_of_the_video(case: str) -> None:
    placed_by_hand(CONFIGS[case], in_tokens)


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
    assert left == {
        "x_embedder", "ref_image_patch_embedder", "image_index_embedding", "time_caption_embed",
        "noise_refiner", "ref_image_refiner", "context_refiner", "norm_out",
    }  # fmt: skip
    assert ours["layers.0.attn.to_q.weight"].shape == (64, 20)
    assert ours["layers.0.attn.to_k.weight"].shape == (32, 20)
    assert ours["layers.0.attn.to_out.0.weight"].shape == (20, 64)
    assert ours["layers.1.feed_forward.linear_2.weight"].shape == (20, 28)
