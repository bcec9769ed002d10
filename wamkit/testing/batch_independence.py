"""Check that a sample of a batch gets the chunk, imagined frames and loss it gets by itself.

Prompts of a batch are padded to the longest, a state token is appended to each of them, noise is
drawn for all samples, and everything is computed in one pass; none of that may affect the result of
a sample. All weights should have been moved (`wamkit.testing.fixtures.randomize_weights`), so that
zeros hide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

from ..interfaces.types import Text
from ..policy.observation import Observation
from ..policy.policy import Policy, generator
from ..policy.preprocessing import inference_inputs
from ..policy.text_cache import TextEmbeddingCache, stack_texts
from .fixtures import batch_of, observation


class OneTokenPerWord:
    """A frozen text encoder whose texts have a token for each word; none for an empty prompt.

    The word `_` is a padding token that is hidden, and `_4` one that is attended to and stands for
    4 equal ones, as encoders of published systems return them.
    """

    trainable = False

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width]."""
        return stack_texts([self._row(prompt) for prompt in prompts])

    def _row(self, prompt: str) -> Text:
        names = prompt.split()
        tokens = torch.zeros(1, len(names), self.width)
        for i, name in enumerate(names):
            if not name.startswith("_"):
                tokens[0, i] = torch.randn(self.width, generator=generator(crc32(name.encode())))
        valid = torch.tensor([[name != "_" for name in names]])
        counts = [[int(name[1:] or 1) if name.startswith("_") else 1 for name in names]]
        repeats = torch.tensor(counts).float()
        return Text(
            tokens,
            None if bool(valid.all()) else valid,
            repeats=None if bool((repeats == 1).all()) else repeats,
        )

    def fingerprint(self) -> str:
        """The same for all."""
        return "words"


PROMPTS = ("lift", "_ put the cup on it _4")
"""One that has no mask alone and is padded in the batch, and one that is the longest.

The longest has padding of its own: hidden before its words, and attended to behind them.
"""


@torch.no_grad()
def expect_batch_independent(
    policy: Policy, prompts: Sequence[str] = PROMPTS, index: int = 0, tolerance: float = 2e-5
) -> None:
    """Raise AssertionError unless sample `index` gets the same result in a batch of one.

    The batch has a sample for each of `prompts`, with images, a state and a seed of its own.
    Replaces the text encoder by `OneTokenPerWord`, whose texts are as long as the prompts.
    """
    spec, count, policy = policy.spec, len(prompts), policy.eval()
    policy.text_embeddings = TextEmbeddingCache(OneTokenPerWord(spec.text_encoder.width))
    policy.prompt_state.forget()
    seen = replace(observation(spec, batch=count), prompt=prompts)
    seeds, one = list(range(count)), take_sample(seen, index)
    found = policy.act(seen, seed=seeds).values[index]
    _expect("the chunk", policy.act(one, seed=seeds[index]).values[0], found, tolerance)
    if spec.latent_frames[1]:
        clip, own = _imagined(policy, seen, seeds), _imagined(policy, one, [seeds[index]])
        _expect("the imagined video", own[0], clip[index], tolerance)
    batch = batch_of(spec, size=count)
    batch = replace(batch, observation=replace(batch.observation, prompt=prompts))
    # The same seed for all: what training decides once for a batch is then decided alike.
    each = [policy.loss(take_sample(batch, i), seed=[0]).parts for i in range(count)]
    for part, loss in policy.loss(batch, seed=[0] * count).parts.items():
        mean = torch.stack([losses[part] for losses in each]).mean()
        _expect(f"the loss of the {part}", mean, loss, tolerance)


def take_sample(batch: Any, index: int) -> Any:
    """One sample of an `Observation` or a `Batch`."""

    def row(value: Any) -> Any:
        if isinstance(value, Tensor | tuple | list):
            return value[index : index + 1]
        if isinstance(value, dict):
            return {name: row(x) for name, x in value.items()}
        return take_sample(value, index) if isinstance(value, Observation) else value

    return replace(batch, **{f.name: row(getattr(batch, f.name)) for f in fields(batch)})


def _imagined(policy: Policy, seen: Observation, seeds: Sequence[int]) -> Tensor:
    """Latents [B, C, T, h, w] of the video that a policy imagines."""
    inputs = inference_inputs(policy, seen)
    model = policy.model_with_cfg(inputs)
    return policy.paradigm.imagine(model, inputs, policy.schedules, generator(seeds)).z


def _expect(what: str, single: Tensor, batched: Tensor, tolerance: float) -> None:
    scale = float(single.abs().max())
    error = float((single - batched).abs().max())
    assert error <= tolerance * scale, (
        f"{what} of a sample differs by {error / (scale or 1):.1e} of its scale between batches "
        f"of one and more, allowed {tolerance:.0e}"
    )
