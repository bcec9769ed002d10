"""Tokens that belong to no frame pass Qwen-Image's blocks, or a narrower copy of them."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from wamkit_qwen_image import QwenImage

from wamkit.acceleration.compile_modules import CompiledPass
from wamkit.engine.passes import PassRunner
from wamkit.policy.policy import Policy
from wamkit.testing.backbone_contract import STACK, grid, placed_by_hand
from wamkit.testing.fixtures import observation, spec_with, with_overrides
from wamkit.testing.parity import same_values

CONFIGS: dict[str, Any] = {
    "edit": QwenImage(variant="tiny"),
}
cases = pytest.mark.parametrize("case", CONFIGS)


def from_the_middle(times: Tensor, rows: int, columns: int) -> Tensor:
    """Places of the tokens of targets; all of them are the image in the making."""
    return grid(0 * times, rows, columns) - torch.tensor([0, rows // 2, (columns + 1) // 2])


@cases
def test_tokens_of_a_video_placed_by_hand_give_the_result_of_the_video(case: str) -> None:
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


def test_equal_layers_are_compiled_once() -> None:
    spec = spec_with(backbone="qwen_image", action_head="mot", paradigm="image_edit")
    spec = with_overrides(spec, "backbone.layers=3")
    policy, seen = Policy.from_spec(spec), observation(spec)
    regions: list[list[str]] = []

    def record(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
        calls = [n for n in graph.graph.nodes if "invoke_subgraph" in str(n.target)]
        regions.append([str(call.args[1]) for call in calls])
        return graph.forward

    wanted = policy.act(seen, seed=0).values
    policy.runner = PassRunner(partial(CompiledPass, backend=record))  # type: ignore[arg-type]
    same_values(policy.act(seen, seed=0).values, wanted)
    prefill, step = regions
    assert len(prefill) == 2 and len(set(prefill)) == 1  # the last layer makes keys alone
    assert len(step) == 3 and len(set(step)) == 1
