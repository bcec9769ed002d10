"""Tokens that belong to no frame pass FLUX's blocks, or a narrower copy, next to the stream."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor
from wamkit_flux import Flux1, Flux2

from wamkit import WamkitError
from wamkit.testing.backbone_contract import STACK, grid, placed_by_hand

CONFIGS: dict[str, Any] = {
    "klein": Flux2(variant="tiny", latent_channels=16),
    "guided": Flux2(variant="tiny", latent_channels=16, guidance=3.5),
    "kontext": Flux1(variant="tiny", cond_embeds_width=20),
}
cases = pytest.mark.parametrize("case", CONFIGS)


def at_image_0(times: Tensor, rows: int, columns: int) -> Tensor:
    """Places of the tokens of targets; all of them are the image in the making."""
    return grid(0 * times, rows, columns)


@cases
def test_tokens_of_a_target_placed_by_hand_give_the_result_of_the_stream(case: str) -> None:
    placed_by_hand(CONFIGS[case], at_image_0)


@cases
@pytest.mark.parametrize("check", STACK)
def test_other_tokens_and_other_sizes(case: str, check: Any) -> None:
    check(CONFIGS[case])


@cases
def test_an_expert_has_the_names_of_the_backbone_without_those_for_text(case: str) -> None:
    ours = dict(CONFIGS[case].expert(20, 28).named_parameters())
    theirs = dict(CONFIGS[case].build().named_parameters())
    assert ours.keys() < theirs.keys()
    left = {
        name.split(".")[0]
        for name in theirs.keys() - ours.keys()
        if not any(word in name for word in ("add", "context", "txt"))
    }
    time = {"klein": set(), "guided": {"time_guidance_embed"}, "kontext": {"time_text_embed"}}
    assert left == {"x_embedder", "norm_out", "proj_out"} | time[case]
    assert ours["transformer_blocks.1.attn.to_q.weight"].shape == (72, 20)
    assert ours["transformer_blocks.1.attn.to_out.0.weight"].shape == (20, 72)


@cases
def test_a_resized_stack_is_written_out_and_builds(case: str) -> None:
    config = CONFIGS[case].model_copy(update={"weights": "/models/flux"})
    small = config.resized([0, 2, 3], 2, 40)
    assert (small.weights, small.double_layers, small.single_layers) == (None, 1, 2)
    traits = small.traits
    assert (traits.depth, traits.width, traits.num_heads, traits.mlp_dim) == (3, 48, 2, 40)
    assert traits.latent_channels == 16
    model: Any = small.build()
    assert model.traits == traits and len(model.blocks) == 3


def test_a_published_stack_can_be_cut() -> None:
    small = Flux2(variant="klein-4b").resized(range(3, 8), 24, 9216)
    assert (small.double_layers, small.single_layers, small.text_width) == (2, 3, 7680)


@cases
def test_a_stack_without_one_of_the_two_kinds_of_blocks_is_refused(case: str) -> None:
    with pytest.raises(WamkitError) as error:
        CONFIGS[case].resized([2, 3], 3, 96)
    assert error.value.what == (
        "found 0 double and 2 single blocks among [2, 3], expected at least one of each"
    )
    assert error.value.hint == "name blocks below 2 and from there on"
    with pytest.raises(WamkitError, match="expected places in a stack of 4, ascending"):
        CONFIGS[case].resized([0, 4], 3, 96)
