"""Several proposals per sample in one batch, which share one prefill.

Copies are concatenated along the batch axis: row k * B + b is copy k of sample b.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import BatchedGenerator, spawn_generators
from .action_head import is_prefill
from .paradigm import CLEAN, Model
from .types import ModelInputs, ModelOutput, base


def sample_indices(inputs: ModelInputs, copies: int) -> Tensor:
    """Sample index of each row of `copies` copies of the inputs [copies * B]."""
    tokens = inputs.text.tokens
    return torch.arange(tokens.shape[0], device=tokens.device).repeat(copies)


def proposal_generators(rng: torch.Generator, copies: int) -> torch.Generator:
    """A generator for `copies` copies of a batch.

    `rng` itself draws for the first, so that it gets the noise it would get alone; the others have
    generators of their own, seeded by `rng` as it is now (`spawn_generators`).
    """
    return rng if copies == 1 else BatchedGenerator((rng, *spawn_generators(rng, copies - 1)))


class SharedPrefill:
    """A model that runs the prefill once per sample, for any number of proposals.

    A prefill of text, context and state is the same for all copies of a sample: it runs for the
    samples, and its KV cache is repeated for the copies. All other passes run as they are. For the
    inputs of one chunk.
    """

    def __init__(self, model: Model, inputs: ModelInputs) -> None:
        self._model = model
        self._samples = sample_indices(inputs, 1)
        self._kept: dict[tuple[frozenset[str], frozenset[str]], KVCache | None] = {}

    def copies(self, count: int) -> Model:
        """The model for `count` copies of the samples, ordered as by `sample_indices`."""
        return self._wrap(self._samples.repeat(count), whole=True)

    def some(self, index: Tensor) -> Model:
        """The model for inputs of the samples `index` [B'].

        They use the KV cache of a prefill over all samples if there was one.
        """
        return self._wrap(index, whole=False)

    def _wrap(self, index: Tensor, *, whole: bool) -> Model:
        same = whole and len(index) == len(self._samples)

        def run(
            inputs: ModelInputs, cache: KVCache | None = None, keep: Collection[str] = ()
        ) -> ModelOutput:
            shared = cache is None and is_prefill(inputs, keep)
            if not shared or not all(base(role) in CLEAN for role in (*inputs.roles, *keep)):
                return self._model(inputs, cache=cache, keep=keep)
            key = inputs.roles, frozenset(keep)
            if key not in self._kept:
                if not whole:
                    return self._model(inputs, keep=keep)
                first = inputs if same else inputs.pick(self._samples)
                self._kept[key] = self._model(first, keep=keep).cache
            kept = self._kept[key]
            return ModelOutput(cache=kept if same or kept is None else kept.pick(index))

        return run
