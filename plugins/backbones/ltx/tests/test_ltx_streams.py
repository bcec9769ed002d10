"""Tokens that belong to no frame pass LTX's blocks, or a narrower copy of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from wamkit_ltx import LTX, LTX2

from wamkit.testing.backbone_contract import STACK, placed_by_hand
from wamkit.testing.fixtures import spec_with

CONFIGS: dict[str, Any] = {
    "0.9.0": LTX(variant="tiny", latent_channels=8, causal_times=False),
    "0.9.5": LTX(variant="tiny", latent_channels=8, fps=5),
    "2.0": LTX2(variant="tiny", latent_channels=8),
    "2.3": LTX2(variant="tiny", latent_channels=8, design="2.3"),
}
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_tokens_at_the_places_of_frames_give_the_result_of_frames(case: str) -> None:
    placed_by_hand(CONFIGS[case])


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])


def test_a_stride_across_views_without_views_is_refused() -> None:
    spec = spec_with(backbone="ltx")
    assert list(LTX(cross_view_stride=2, views=3).conflicts(spec)) == []
    (found,) = LTX(cross_view_stride=2).conflicts(spec)
    assert found.between == ("backbone.cross_view_stride", "backbone.views")
    assert "set backbone.views to the number of cameras" in found.hint


@cases
def test_an_expert_has_the_names_of_the_backbone(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = {name.split(".")[0] for name in theirs.keys() - ours.keys()}
    assert left == {"proj_in", "scale_shift_table", "proj_out"}
    assert ours["transformer_blocks.0.attn1.to_q.weight"].shape == (64, 20)
    assert ours["transformer_blocks.0.attn2.to_out.0.weight"].shape == (20, 64)
    assert ours["transformer_blocks.1.ff.net.2.weight"].shape == (20, 28)
    inputs = 64 if case == "2.3" else 20
    assert ours["transformer_blocks.0.attn2.to_k.weight"].shape == (64, inputs)


@pytest.mark.parametrize("case", ["0.9.5", "2.0", "2.3"])
@torch.no_grad()
def test_places_between_and_before_the_first_latents_differ(case: str) -> None:
    backbone: Any = CONFIGS[case].build()
    positions = torch.zeros(7, 3, dtype=torch.float64)
    positions[:, 0] = torch.tensor([-1.0, -0.5, 0, 0.25, 0.5, 1, 1.5])
    angle = backbone.embed_positions(positions).sin[-1, :, -3]  # the highest frequency
    assert angle.unique().numel() == 7
