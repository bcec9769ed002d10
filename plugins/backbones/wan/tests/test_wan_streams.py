"""Tokens that belong to no frame pass Wan's blocks, or a narrower copy, next to the video."""

from __future__ import annotations

from typing import Any

import pytest
from wamkit_wan import Wan

from wamkit import WamkitError
from wamkit.testing.backbone_contract import STACK, placed_by_hand

CONFIG = Wan(variant="tiny")
CONFIGS: dict[str, Any] = {
    "tiny": CONFIG,
    "2.2-ti2v": Wan(variant="2.2-ti2v-5b").tiny(),
    "2.1-i2v": Wan(variant="2.1-i2v-14b").tiny(),
}
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_tokens_of_a_video_placed_by_hand_give_the_result_of_the_video(case: str) -> None:
    placed_by_hand(CONFIGS[case])


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])


def test_an_expert_has_the_names_of_the_backbone() -> None:
    ours = dict(CONFIG.expert(20, 28).named_parameters())
    theirs = dict(CONFIG.build().named_parameters())
    assert ours.keys() < theirs.keys()
    assert theirs.keys() - ours.keys() == {
        "patch_embedding.weight", "patch_embedding.bias", "proj_out.weight", "proj_out.bias",
        "scale_shift_table",
    }  # fmt: skip
    assert ours["blocks.0.attn1.to_q.weight"].shape == (72, 20)
    assert ours["blocks.0.attn2.to_out.0.weight"].shape == (20, 72)
    assert ours["blocks.2.ffn.net.2.weight"].shape == (20, 28)


def test_a_resized_stack_is_written_out_and_builds() -> None:
    large = Wan(variant="2.2-ti2v-5b", weights="/models/wan")
    small: Any = large.resized([0, 7, 14, 29], 16, 8192)
    assert (small.weights, small.layers, small.num_heads, small.head_dim) == (None, 4, 16, 128)
    traits = small.traits
    assert (traits.depth, traits.width, traits.mlp_dim) == (4, 2048, 8192)
    assert (traits.text_width, traits.latent_channels) == (4096, 48)
    tiny = CONFIG.resized([0, 2], 2, 40)
    model: Any = tiny.build()
    assert model.traits == tiny.traits and len(model.blocks) == 2
    assert model.blocks[0].attn1.to_q.weight.shape == (48, 48)


@pytest.mark.parametrize("layers", [[], [1, 0], [0, 0], [0, 3], [-1, 0]])
def test_layers_that_a_stack_does_not_have_are_refused(layers: list[int]) -> None:
    with pytest.raises(WamkitError) as error:
        CONFIG.resized(layers, 3, 96)
    assert str(error.value) == (
        f"found layers {layers}, expected places in a stack of 3, ascending\n"
        "  hint: name each layer once, from 0 to 2"
    )


@pytest.mark.parametrize(("num_heads", "mlp_dim"), [(0, 96), (3, 0)])
def test_a_stack_without_heads_or_feed_forward_is_refused(num_heads: int, mlp_dim: int) -> None:
    with pytest.raises(WamkitError, match="expected a multiple of 1 heads and a positive width"):
        CONFIG.resized([0], num_heads, mlp_dim)
