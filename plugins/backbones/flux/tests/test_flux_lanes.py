"""Text tokens pass weights that double blocks hold, and what does not change is computed once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from wamkit_flux import Flux1, Flux2

from wamkit.interfaces import denoise
from wamkit.policy.policy import Policy
from wamkit.testing.fixtures import (
    observation,
    random_frames,
    randomize_weights,
    spec_with,
    with_overrides,
)

CONFIGS: dict[str, Any] = {"flux1": Flux1(variant="tiny"), "flux2": Flux2(variant="tiny")}
cases = pytest.mark.parametrize("case", CONFIGS)


@cases
def test_lanes_of_a_copy_belong_to_the_blocks_of_the_copy(case: str) -> None:
    model = CONFIGS[case].build()
    other = copy.deepcopy(model)
    for blocks in (model, other):
        lanes = blocks.text_blocks[:2]
        assert all(
            lane.block is block
            for lane, block in zip(lanes, blocks.transformer_blocks, strict=True)
        )
        assert blocks.text_blocks[2:] == blocks.blocks[2:]
    assert other.text_blocks[0].block is not model.text_blocks[0].block


@cases
@torch.no_grad()
def test_a_layer_that_is_replaced_is_used_for_text(case: str) -> None:
    model = randomize_weights(CONFIGS[case].build()).eval()
    frames, text = random_frames(model.traits, (2, 4))
    before, called = denoise(model, frames, text), []

    class Watched(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            called.append(x.shape[1])
            return self.layer(x)  # type: ignore[no-any-return]

    attn = model.transformer_blocks[1].attn
    for name in ("add_q_proj", "to_add_out"):
        setattr(attn, name, Watched(getattr(attn, name)))
    assert torch.equal(denoise(model, frames, text), before)
    assert called == [text.length] * 2


@cases
def test_a_second_chunk_embeds_no_text_and_no_noise_levels(case: str) -> None:
    spec = spec_with(backbone=case, action_head="mot", paradigm="image_edit")
    spec = with_overrides(
        spec, "action_head.state=token"
    )  # as a text token it would change the prompt
    policy, seen = Policy.from_spec(spec), observation(spec)
    once = [
        module
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear)
        and any(part in name for part in ("context_embedder", "time_", "norm1", "modulation"))
    ]
    calls: list[nn.Module] = []
    for module in once:
        module.register_forward_hook(lambda module, *_: calls.append(module))
    first = policy.act(seen, seed=0).values
    assert set(calls) == set(once)
    calls.clear()
    assert torch.equal(policy.act(seen, seed=0).values, first)
    assert not calls
