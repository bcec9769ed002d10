"""Copies of the inputs that act side by side in one batch and share what is computed once.

Copies lie one after the other: row k * B + b is copy k of sample b.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from ..engine.kv_cache import KVCache
from ..engine.noise_schedule import Several, fork
from .action_head import is_prefill
from .paradigm import CLEAN, Model
from .types import ModelInputs, ModelOutput, base


def rows(inputs: ModelInputs, copies: int) -> Tensor:
    """For each row of so many copies of inputs, which of its samples it is [copies * B]."""
    tokens = inputs.text.tokens
    return torch.arange(tokens.shape[0], device=tokens.device).repeat(copies)


def generators(rng: torch.Generator, copies: int) -> torch.Generator:
    """What draws for so many copies of a batch.

    `rng` itself draws for the first, so that it gets the noise it would get alone; the others have
    generators of their own, seeded by `rng` as it is now (`wamkit.engine.noise_schedule.fork`).
    """
    return rng if copies == 1 else Several((rng, *fork(rng, copies - 1)))


class Observed:
    """A model that passes what is observed through the network once, however many copies act.

    A pass that keeps nothing but text, context and state is the same for all copies of a sample: it
    is made for the samples, and its keys are handed to the copies. All other passes are the
    model's own. For the inputs of one chunk.
    """

    def __init__(self, model: Model, inputs: ModelInputs) -> None:
        self._model = model
        self._samples = rows(inputs, 1)
        self._kept: dict[tuple[frozenset[str], frozenset[str]], KVCache | None] = {}

    def copies(self, count: int) -> Model:
        """The model for inputs of so many copies of the samples, as `rows` orders them."""
        return self._sharing(self._samples.repeat(count), whole=True)

    def some(self, index: Tensor) -> Model:
        """The model for inputs of the samples `index` [B'].

        They find what a pass over all samples has left, and pass the rest for themselves.
        """
        return self._sharing(index, whole=False)

    def _sharing(self, index: Tensor, *, whole: bool) -> Model:
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
