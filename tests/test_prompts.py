"""Words that attention may not look at never reach the network, and nobody misses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

import wamkit
from wamkit.config.registry import registry
from wamkit.interfaces.types import Text
from wamkit.policy.preprocessing import training_inputs
from wamkit.policy.text_cache import TextEmbeddingCache, trim_padding
from wamkit.testing.fixtures import batch_of, spec_with
from wamkit.testing.parity import float64, same_values, to_float64

WIDTH = 4


class Padded:
    """A frozen text encoder that pads every prompt to twelve tokens, and hides what it added."""

    width, trainable = WIDTH, False

    def encode(self, prompts: Sequence[str]) -> Text:
        valid = torch.tensor([[i < len(prompt.split()) for i in range(12)] for prompt in prompts])
        return Text(valid[..., None] * torch.arange(1.0, 13)[:, None].expand(12, WIDTH), valid)

    def fingerprint(self) -> str:
        return "padded"


def test_a_prompt_is_trimmed_to_its_tokens_and_needs_no_mask() -> None:
    text = TextEmbeddingCache(Padded()).encode(["lift the red cup"])
    assert text.tokens.shape == (1, 4, WIDTH)
    assert text.valid is None and text.mask is None


def test_prompts_of_a_batch_are_cut_to_the_longest() -> None:
    text = TextEmbeddingCache(Padded()).encode(["lift it", "lift the red cup"])
    assert text.tokens.shape == (2, 4, WIDTH)
    assert text.valid is not None and text.valid.sum(1).tolist() == [2, 4]
    same = TextEmbeddingCache(Padded()).encode(["lift it", "drop it"])
    assert same.tokens.shape == (2, 2, WIDTH) and same.valid is None


def test_what_may_be_looked_at_is_never_cut() -> None:
    tokens = torch.randn(1, 5, WIDTH)
    for text in (Text(tokens), Text(tokens, repeats=torch.tensor([[1.0, 1, 1, 1, 9]]))):
        assert trim_padding(text) is text
    gap = trim_padding(Text(tokens, torch.tensor([[False, True, False, True, False]])))
    assert torch.equal(gap.tokens, tokens[:, :4])
    assert gap.valid is not None and gap.valid.tolist() == [[False, True, False, True]]
    nothing = trim_padding(Text(tokens, torch.zeros(1, 5, dtype=torch.bool)))
    assert nothing.tokens.shape == (1, 1, WIDTH) and nothing.valid is not None


@pytest.mark.parametrize("name", registry().names("backbone"))
@float64()
def test_velocities_are_the_same_without_what_is_hidden(name: str) -> None:
    policy = to_float64(wamkit.build(spec_with(backbone=name)))
    inputs = training_inputs(policy, batch_of(policy.spec, size=1))
    rng = torch.Generator().manual_seed(0)
    noisy, _ = policy.paradigm.add_noise(inputs, policy.schedules, rng)
    width = inputs.text.tokens.shape[2]
    valid = torch.arange(9)[None] < 5
    padded = replace(inputs.text, tokens=torch.randn(1, 9, width), valid=valid, repeats=None)
    with torch.no_grad():
        long = policy.model(noisy.with_(text=padded))
        short = policy.model(noisy.with_(text=trim_padding(padded)))
    assert trim_padding(padded).tokens.shape[1] == 5
    assert long.action is not None and short.action is not None
    same_values(short.action, long.action)
    if long.video is not None and short.video is not None:
        same_values(short.video, long.video)
