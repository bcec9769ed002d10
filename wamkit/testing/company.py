"""Whether a sample gets in a batch what it gets alone: its chunk, its imagined frames, its loss.

Prompts of a batch are padded to the longest, noise is drawn for all samples, and everything is
computed in one pass; none of that may be seen in what a sample gets. Weights should all have been
moved (`wamkit.testing.fixtures.redrawn`), so that zeros hide nothing.
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


class Words:
    """A frozen text encoder whose texts have a token for each word; none for an empty prompt."""

    trainable = False

    def __init__(self, width: int) -> None:
        self.width = width

    def encode(self, prompts: Sequence[str]) -> Text:
        """B prompts to [B, L, width]."""
        return stack_texts([Text(self._row(prompt)) for prompt in prompts])

    def _row(self, prompt: str) -> Tensor:
        seeds = [crc32(word.encode()) for word in prompt.split()]
        rows = [torch.randn(self.width, generator=generator(seed)) for seed in seeds]
        return torch.stack(rows)[None] if rows else torch.zeros(1, 0, self.width)

    def fingerprint(self) -> str:
        """The same for all."""
        return "words"


PROMPTS = ("lift", "put the cup on it")
"""One that is padded, and one that is the longest."""


@torch.no_grad()
def expect_alike(
    policy: Policy, prompts: Sequence[str] = PROMPTS, alone: int = 0, tolerance: float = 1e-4
) -> None:
    """Raise AssertionError unless sample `alone` gets by itself what it gets in a batch.

    The batch has a sample for each of `prompts`, with images, a state and a seed of its own.
    Prompts are encoded by `Words` from now on, whose texts are as long as the prompts.
    """
    spec, count, policy = policy.spec, len(prompts), policy.eval()
    policy.text_embeddings = TextEmbeddingCache(Words(spec.text_encoder.width))
    policy.prompt_state.forget()
    seen = replace(observation(spec, batch=count), prompt=prompts)
    seeds, one = list(range(count)), picked(seen, alone)
    found = policy.act(seen, seed=seeds).values[alone]
    _expect("the chunk", policy.act(one, seed=seeds[alone]).values[0], found, tolerance)
    if spec.latent_frames[1]:
        clip, own = _imagined(policy, seen, seeds), _imagined(policy, one, [seeds[alone]])
        _expect("what is imagined", own[0], clip[alone], tolerance)
    batch = batch_of(spec, size=count)
    batch = replace(batch, observation=replace(batch.observation, prompt=prompts))
    # The same seed for all: what training decides once for a batch is then decided alike.
    each = [policy.loss(picked(batch, i), seed=[0]).parts for i in range(count)]
    for part, loss in policy.loss(batch, seed=[0] * count).parts.items():
        mean = torch.stack([losses[part] for losses in each]).mean()
        _expect(f"the loss of the {part}", mean, loss, tolerance)


def picked(batch: Any, index: int) -> Any:
    """One sample of an `Observation` or a `Batch`."""

    def row(value: Any) -> Any:
        if isinstance(value, Tensor | tuple | list):
            return value[index : index + 1]
        if isinstance(value, dict):
            return {name: row(x) for name, x in value.items()}
        return picked(value, index) if isinstance(value, Observation) else value

    return replace(batch, **{f.name: row(getattr(batch, f.name)) for f in fields(batch)})


def _imagined(policy: Policy, seen: Observation, seeds: Sequence[int]) -> Tensor:
    """Latents [B, C, T, h, w] of what a policy imagines."""
    inputs = inference_inputs(policy, seen)
    model = policy.guided(inputs)
    return policy.paradigm.imagine(model, inputs, policy.schedules, generator(seeds)).z


def _expect(what: str, alone: Tensor, together: Tensor, tolerance: float) -> None:
    scale = float(alone.abs().max())
    error = float((alone - together).abs().max())
    assert error <= tolerance * scale, (
        f"{what} of a sample differs by {error / (scale or 1):.1e} of its scale between alone "
        f"and in company, allowed {tolerance:.0e}"
    )
